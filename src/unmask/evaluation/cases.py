"""Answered questions with their scores, and the file that keeps them while an evaluation runs.

Knows neither models nor metrics.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unmask.errors import ConfigError, ResourceError


@dataclass(frozen=True)
class Case:
    """A question, its answers and their scores.

    Attributes:
        id, kind, source: of the record; empty where it has none.
        question: the record's, or the whole last turn of the user.
        gold, prediction: the right answer and the given one.
        metrics: name -> figure, from 0 to 1; see `answer_scores`.
        table_rows: rows of the table that were shown; None: no table.
        rows_left_out: rows that were not, because the model has no room for them.
        finish_reason: stop, length (the answer was cut off), or too_long (it was never asked).
        choices: of an answer chosen from some: each of these, its score in nats, and its error where it is known.
    """

    id: str
    kind: str
    source: str
    question: str
    gold: str
    prediction: str
    metrics: dict[str, float]
    table_rows: int | None = None
    rows_left_out: int = 0
    finish_reason: str = "stop"
    choices: dict[str, list[float | None]] | None = None


class CasesFile:
    """Cases by their key, in memory and in a JSONL file, to which each is added as it comes.

    A key says everything that a case depends on. Without a path nothing is written.

    Raises:
        ConfigError: the file holds something else than cases with these keys.
        ResourceError: the file cannot be written.
    """

    def __init__(self, path: Path | None, keys: Sequence[str]) -> None:
        self.path, self.keys = path, keys
        self.cases: dict[str, Case] = {}
        if path is not None:
            self.cases = dict(_read(path, set(keys)))
            self._rewrite(path)

    def add(self, key: str, case: Case) -> None:
        """Keep a case."""
        self.cases[key] = case
        if self.path is not None:
            try:
                with self.path.open("a", encoding="utf-8") as stream:
                    stream.write(_line(key, case))
            except OSError as error:
                raise _unwritable(self.path, error) from None

    def close(self) -> list[Case]:
        """All cases in the order of the keys, which the file then has too."""
        if self.path is not None:
            self._rewrite(self.path)
        return [self.cases[key] for key in self.keys]

    def _rewrite(self, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text("".join(_line(key, self.cases[key]) for key in self.keys if key in self.cases), "utf-8")
            os.replace(part, path)
        except OSError as error:
            raise _unwritable(path, error) from None


def _line(key: str, case: Case) -> str:
    fields = {name: value for name, value in asdict(case).items() if name != "choices" or value is not None}
    return json.dumps(fields | {"key": key}, ensure_ascii=False) + "\n"


def _read(path: Path, keys: set[str]) -> Iterator[tuple[str, Case]]:
    content = path.read_bytes() if path.exists() else b""
    # what follows the last line break was being written when the evaluation was killed
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            fields = json.loads(line)
            key, case = fields.pop("key"), Case(**fields)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f"{path}:{number} is no case of an evaluation. Choose another folder.") from None
        if key not in keys:
            raise ConfigError(
                f"{path} holds cases of another model, other data or other settings, or of an older version. Choose "
                "another folder, or --fresh."
            )
        yield key, case


def _unwritable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"cannot write {path}: {error.strerror or error}. Choose another folder.")
