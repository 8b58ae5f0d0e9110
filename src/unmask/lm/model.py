"""`DiffusionLM`: generate, fill in, score, save."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from unmask.data.blanks import Blanked
from unmask.errors import ConfigError
from unmask.generation.loop import row_seeds, stream, stream_infill
from unmask.generation.options import GenerationOptions
from unmask.generation.trace import Completion, Forwards, Stats
from unmask.lm.continuing import TextRow, continued, rooms, text_rows
from unmask.lm.infilling import (
    BlankRow,
    Lengths,
    between,
    check_blanks,
    choose_lengths,
    filled,
    ids_row,
    mean_log_prob,
    read_text,
    text_row,
    with_cost,
)
from unmask.lm.many import BATCH_SIZE, in_batches
from unmask.lm.prompts import Prompt, encode, several
from unmask.lm.streaming import Generation, Part, TextStream, evaluating
from unmask.models.adapters import has_adapter, save_adapter
from unmask.models.card import saved_card, write_card
from unmask.models.checkpoints import save_model
from unmask.models.families import ModelFamily
from unmask.models.shell import DiffusionModel
from unmask.models.tokenizers import mask_token_id, stop_token_ids
from unmask.objectives.estimators import log_likelihood

Blanks = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]


class DiffusionLM:
    """A masked diffusion language model that reads and writes text.

    Attributes:
        model: the network, a `transformers.PreTrainedModel`; `model(input_ids=ids).logits` are aligned.
        tokenizer: a Hugging Face tokenizer with mask, end and padding tokens and a chat template.
    """

    def __init__(self, model: DiffusionModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @property
    def family(self) -> ModelFamily:
        """The facts of the model's kind."""
        return self.model.family

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        options: GenerationOptions | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """Continue prompts, all in one batch.

        Args:
            prompts: one or several; each a text to go on from, a list of token ids, or chat messages
                (`{"role": ..., "content": ...}`), which go through the chat template.
            options: all settings at once; None: `settings` are the fields of `GenerationOptions`.
            seeds: one per prompt; None: `seed` + row.
            **settings: see `GenerationOptions`.

        Returns:
            One result per prompt, always a list.

        Raises:
            ConfigError: a setting is unknown or out of range, a prompt is no prompt, or it does not fit the model.
            ModelError: the model's logits are not finite.
        """
        return self.stream(prompts, options, seeds=seeds, **settings).run()

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        options: GenerationOptions | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> TextStream:
        """As `generate`, but hands over every commit when it happens."""
        options = self._seeing(_options(options, settings))
        rows = text_rows(several(prompts), self.tokenizer)
        chosen = row_seeds(options, seeds, len(rows))
        parts = [
            Part(self._decoding([rows[row] for row in part], room, [chosen[row] for row in part]), part)
            for room, part in rooms(rows, options, self.model.facts.shape.max_length)
        ]
        return TextStream(self.model, parts, partial(self._continued, rows, options))

    def generate_many(
        self,
        prompts: Iterable[Prompt],
        options: GenerationOptions | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        seeds: Iterable[int] | None = None,
        **settings: Any,
    ) -> Iterator[tuple[int, Generation]]:
        """Continue any number of prompts, `batch_size` at a time.

        Args:
            prompts: see `generate`; read as they are needed.
            options: see `generate`.
            batch_size: rows decoded together; changes no result beyond rounding.
            seeds: one per prompt; None: `seed` + number of the prompt.
            **settings: see `GenerationOptions`.

        Yields:
            Number of the prompt and its result, as they are finished, each once.

        Raises:
            ConfigError, ModelError: as `generate`.
        """
        options = self._seeing(_options(options, settings))
        return in_batches(self, prompts, options, batch_size=batch_size, seeds=seeds)

    def infill(
        self,
        texts: Blanks | None = None,
        options: GenerationOptions | None = None,
        *,
        prefix: str | None = None,
        suffix: str = "",
        tokens: int | tuple[int, int] = (1, 16),
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """Fill in blanks; nothing but the blanks changes.

        Args:
            texts: one or several; in a text each `[MASK]`, or the tokenizer's own mask token, is one blank token, and
                with it the space before it where the tokenizer says so (`lstrip`); `[MASK:4]` is four tokens, and
                `[MASK:1-8]` one to eight, as many as give the filling with the highest mean log-probability per token.
                In ids the mask token's id is a blank token.
            options: all settings at once; None: `settings`, where `block_size` is the whole text unless given.
            prefix: instead of `texts`: write between this and `suffix`; nothing in the two is a blank.
            suffix: what follows.
            tokens: how many are written between them, or from how many to how many.
            seeds: one per text; None: `seed` + row.
            **settings: see `GenerationOptions`.

        Returns:
            One result per text, always a list; `text` and `token_ids` are the whole text's, `written` the blanks'.

        Raises:
            ConfigError: as `generate`; and a text without a blank, or with one of no length.
        """
        if prefix is None:
            if texts is None:
                raise ConfigError("there is nothing to fill in: give texts with blanks, or a prefix and a suffix.")
            return self.stream_infill(texts, options, seeds=seeds, **settings).run()
        if texts is not None:
            raise ConfigError("texts and a prefix are both given. Give texts with blanks, or a prefix and a suffix.")
        return self._filling([between(prefix, suffix, tokens)], _whole(options, settings), seeds).run()

    def stream_infill(
        self,
        texts: Blanks,
        options: GenerationOptions | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> TextStream:
        """As `infill`, but hands over every commit when it happens, once the lengths of open blanks are found."""
        read = [
            read_text(text, self.tokenizer) if isinstance(text, str) else ids_row(text, self.tokenizer)
            for text in several(texts)
        ]
        return self._filling(read, _whole(options, settings), seeds)

    def fill_template(
        self,
        templates: str | Sequence[str],
        options: GenerationOptions | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """Fill in the fields of templates.

        Args:
            templates: one or several texts; `{name:8}` is a field of eight tokens, `{name:1-8}` of one to eight. Other
                braces are text, so that a template may be JSON. `[MASK]` is a blank as in `infill`.
            options, seeds, **settings: as in `infill`.

        Returns:
            One result per template; `fields` is name -> text without the space around it.

        Raises:
            ConfigError: as `infill`; and two fields of one name.
        """
        read = [read_text(text, self.tokenizer, fields=True) for text in several(templates)]
        return self._filling(read, _whole(options, settings), seeds).run()

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt: a text, a list of ids, or messages, which go through the chat template.

        Raises:
            ConfigError: it is none of these.
            DataError: the template refuses the messages, or a text is no Unicode.
        """
        return encode(prompt, self.tokenizer)

    def log_likelihood(
        self, prompt: Prompt, target: str | Sequence[int], *, samples: int = 128, seed: int = 0
    ) -> float:
        """Estimate log p(target | prompt) in nats: a lower bound, by `samples` masked copies of the target.

        A text prompt and a text target are encoded together, as one text; spaces at the end of the prompt count as the
        target's. See `unmask.objectives.estimators` for the estimator and its standard error.
        """
        prompt_ids, target_ids = self._split(prompt, target)
        device = self.model.device
        with evaluating(self.model):
            estimate = log_likelihood(
                self.model,
                torch.tensor(prompt_ids, dtype=torch.int64, device=device),
                torch.tensor(target_ids, dtype=torch.int64, device=device),
                mask_token_id=self._mask_token_id,
                samples=samples,
                seed=seed,
            )
        return estimate.mean

    def save(self, folder: str | os.PathLike[str], *, max_shard_size: str = "5GB") -> None:
        """Write the model, or its adapter, the tokenizer and a model card in the family's own layout.

        Larger models are split into files of `max_shard_size`.

        Raises:
            ModelError: the weights are quantised.
            ResourceError: the folder cannot be written.
        """
        if has_adapter(self.model):
            save_adapter(self.model, folder)
        else:
            save_model(self.model, folder, max_shard_size=max_shard_size)
        self.tokenizer.save_pretrained(os.fspath(folder))
        write_card(folder, saved_card(self.model, Path(folder)))

    def _seeing(self, options: GenerationOptions) -> GenerationOptions:
        """The options, with `attention` as this model was made for it where they do not say."""
        if options.attention != "auto":
            return options
        return replace(
            options, attention="block_causal" if self.model.facts.attention == "block_causal" else "bidirectional"
        )

    @property
    def _mask_token_id(self) -> int:
        return mask_token_id(self.tokenizer, self.model)

    def _split(self, prompt: Prompt, target: str | Sequence[int]) -> tuple[list[int], list[int]]:
        if not isinstance(target, str):
            return self.encode(prompt), self.encode(target)
        if not isinstance(prompt, str):
            return self.encode(prompt), list(self.tokenizer(target, add_special_tokens=False)["input_ids"])
        whole, start = self.encode(prompt + target), len(self.encode(prompt.rstrip(" ")))
        return whole[:start], whole[start:]

    def _decoding(self, rows: Sequence[TextRow], options: GenerationOptions, seeds: Sequence[int]) -> Any:
        return stream(
            self.model,
            [row.ids for row in rows],
            options=options,
            mask_token_id=self._mask_token_id,
            stop_token_ids=self._stop_token_ids(options),
            seeds=seeds,
            vocab_size=self.model.facts.shape.vocab_size,
            device=self.model.device,
        )

    def _stop_token_ids(self, options: GenerationOptions) -> tuple[int, ...]:
        """Those of the model, and stop strings that are a special token: these are in no text."""
        special = dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))
        asked = [special[text] for text in options.stop if text in special]
        return tuple(dict.fromkeys([*stop_token_ids(self.tokenizer, self.model), *asked]))

    def _continued(
        self, rows: Sequence[TextRow], options: GenerationOptions, number: int, done: Completion
    ) -> Generation:
        return continued(rows[number], done, options, self.tokenizer)

    def _filling(
        self, read: Sequence[Blanked | BlankRow], options: GenerationOptions, seeds: Sequence[int] | None
    ) -> TextStream:
        check_blanks(read)
        options = self._seeing(options)
        chosen = row_seeds(options, seeds, len(read))
        found = [self._row(text, options, seed) for text, seed in zip(read, chosen, strict=True)]
        part = Part(self._filling_decoding([row for row, _ in found], options, chosen), tuple(range(len(found))))

        def finish(number: int, done: Completion) -> Generation:
            row, cost = found[number]
            return with_cost(filled(row, done, self.tokenizer), cost)

        return TextStream(self.model, [part], finish)

    def _filling_decoding(self, rows: Sequence[BlankRow], options: GenerationOptions, seeds: Sequence[int]) -> Any:
        longest, limit = max((len(row.ids) for row in rows), default=0), self.model.facts.shape.max_length
        if longest > limit:
            raise ConfigError(f"a text has {longest:,} tokens; the model was made for {limit:,}. Shorten it.")
        return stream_infill(
            self.model,
            [row.ids for row in rows],
            [row.editable for row in rows],
            options=options,
            mask_token_id=self._mask_token_id,
            seeds=seeds,
            vocab_size=self.model.facts.shape.vocab_size,
            device=self.model.device,
        )

    def _row(self, read: Blanked | BlankRow, options: GenerationOptions, seed: int) -> tuple[BlankRow, Stats]:
        """The row of a text, its open lengths chosen, and what it cost to choose them."""
        spent: list[Stats] = []
        if isinstance(read, BlankRow):
            return read, _sum(spent)

        def score(candidates: Sequence[Lengths]) -> list[float]:
            scores: list[float] = []
            for start in range(0, len(candidates), BATCH_SIZE):
                rows = [text_row(read, lengths, self.tokenizer) for lengths in candidates[start : start + BATCH_SIZE]]
                with evaluating(self.model):
                    done = self._filling_decoding(rows, replace(options, trace=True), [seed] * len(rows)).run()
                spent.extend(completion.stats for completion in done)
                scores += [mean_log_prob(completion) for completion in done]
            return scores

        lengths = tuple(blank.least for blank in read.blanks)
        if read.is_open:
            lengths = choose_lengths(read.blanks, score)
        return text_row(read, lengths, self.tokenizer), _sum(spent)


def _sum(spent: Sequence[Stats]) -> Stats:
    forwards = [stats.forwards for stats in spent]
    calls = [sum(getattr(one, kind) for one in forwards) for kind in ("denoise", "commit", "refresh")]
    return Stats(0, Forwards(*calls), sum(stats.positions for stats in spent))


def _options(options: GenerationOptions | None, settings: dict[str, Any]) -> GenerationOptions:
    if options is not None and settings:
        raise ConfigError(f"both options and {', '.join(settings)} are given; put everything into one of them.")
    return options or GenerationOptions.of(**settings)


def _whole(options: GenerationOptions | None, settings: dict[str, Any]) -> GenerationOptions:
    """The options for filling in: the whole text is one block unless a size is given."""
    return _options(options, settings if options else {"block_size": None, **settings})
