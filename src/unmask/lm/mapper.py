"""Columns of prompts -> the same columns with results, for `map_batches` of Ray Data and its like.

Imports no Ray: a mapper is an object that takes and gives a dictionary of columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unmask.errors import DataError
from unmask.generation.options import GenerationOptions
from unmask.lm.attention import own_blocks
from unmask.lm.loading import load
from unmask.lm.model import DiffusionLM


class PromptMapper:
    """Continues the prompts of a column; made once per worker, where it loads the model.

    Args:
        model: what `unmask.load` takes, or a model that is loaded already.
        prompt_column: texts, lists of ids, or lists of messages.
        row_column: numbers of the rows; a row's seed is that of the options plus its number, so that results do not
            depend on how rows are divided over workers. None: every row has the seed of the options.
        batch_size: rows decoded together.
        load_options: for `unmask.load`, a mapping: `{"dtype": "bfloat16"}`.
        **settings: see `GenerationOptions`.

    Raises:
        ConfigError, ModelError, ResourceError: as `unmask.load` and `DiffusionLM.generate`.
    """

    def __init__(
        self,
        model: str | DiffusionLM,
        *,
        prompt_column: str = "prompt",
        row_column: str | None = None,
        batch_size: int = 16,
        load_options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.options = GenerationOptions.of(**settings)
        self.lm = load(model, **(load_options or {})) if isinstance(model, str) else model
        if "block_size" not in settings:
            self.options = own_blocks(self.options, self.lm.model.facts)
        self.prompt_column, self.row_column, self.batch_size = prompt_column, row_column, batch_size

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The columns with `text`, `finish_reason`, `emitted` and `forwards`, one value per row, added as arrays.

        Raises:
            DataError: the column of prompts or of numbers is missing.
        """
        prompts = [_plain(prompt) for prompt in self._column(columns, self.prompt_column)]
        seeds = [self.options.seed] * len(prompts)
        if self.row_column is not None:
            seeds = [self.options.seed + int(number) for number in self._column(columns, self.row_column)]
        done = dict(self.lm.generate_many(prompts, self.options, batch_size=self.batch_size, seeds=seeds))
        results = [done[number] for number in range(len(prompts))]
        return {
            **columns,
            "text": np.array([result.text for result in results], dtype=object),
            "finish_reason": np.array([result.finish_reason for result in results], dtype=object),
            "emitted": np.array([result.stats.emitted for result in results], dtype=np.int64),
            "forwards": np.array([result.stats.forwards.total for result in results], dtype=np.int64),
        }

    def _column(self, columns: Mapping[str, Any], name: str) -> Sequence[Any]:
        if name not in columns:
            raise DataError(f'there is no column "{name}" (found: {", ".join(columns)}). Name another one.')
        return columns[name]


def _plain(value: Any) -> Any:
    """Texts, ids and messages as Python's own types, whatever the columns hold them in."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return value.item() if isinstance(value, np.generic) else value
