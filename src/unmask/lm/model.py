"""`DiffusionLM`: generate, fill in, score, save."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from unmask.data.blanks import Blanked
from unmask.errors import ConfigError
from unmask.generation.batching import continuous
from unmask.generation.decoding import Decoding
from unmask.generation.loop import row_seeds, stream_rows
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Waiting
from unmask.generation.trace import Completion
from unmask.lm.attention import as_made, own_blocks, refuse_infilling
from unmask.lm.constraints import Constraints
from unmask.lm.continuing import TextRow, continued, ends_at_stop, room, rooms, with_room
from unmask.lm.filling import Filler
from unmask.lm.infilling import BlankRow, between, ids_row, read_text
from unmask.lm.many import BATCH_SIZE, Asked, asked_rows, finished_rows
from unmask.lm.prompts import Prompt, encode, several
from unmask.lm.scoring import Scoring, estimates, pair_ids
from unmask.lm.streaming import Generation, Part, TextStream
from unmask.lm.working import at_work, shortage_told
from unmask.models.adapters import has_adapter, save_adapter
from unmask.models.card import saved_card, write_card
from unmask.models.checkpoints import save_model
from unmask.models.families import ModelFamily
from unmask.models.shell import Aligned, DiffusionModel
from unmask.models.tokenizers import mask_token_id, stop_token_ids
from unmask.objectives.target_masks import LikelihoodEstimate
from unmask.types import Denoiser

Blanks = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]


class DiffusionLM:
    """A masked diffusion language model that reads and writes text.

    Attributes:
        model: the network, a `transformers.PreTrainedModel`; `model(input_ids=ids).logits` are aligned.
        tokenizer: a Hugging Face tokenizer with mask, end and padding tokens and a chat template.
    """

    def __init__(self, model: DiffusionModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._constraints = Constraints(tokenizer)

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
            options: all settings at once; None: `settings` are the fields of `GenerationOptions`, where `block_size` is
                that of a block-causal checkpoint unless given.
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
        options = self._chosen(options, settings)
        rows = [TextRow(self.encode(prompt), isinstance(prompt, str)) for prompt in several(prompts)]
        chosen = row_seeds(options, seeds, len(rows))
        parts = [
            Part(self._decoding([Asked(row, rows[row], chosen[row]) for row in part], own), part)
            for own, part in rooms(rows, options, self.model.facts.shape.max_length)
        ]

        def finish(number: int, done: Completion) -> Generation:
            return continued(options, self.tokenizer, rows[number], done)

        return TextStream(self.model, parts, finish)

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
        options = self._chosen(options, settings)
        return self._many(
            asked_rows(prompts, partial(self._row_of, options), options.seed, seeds, batch_size), options, batch_size
        )

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
        return self.stream_between(prefix, suffix, tokens, options, seeds=seeds, **settings).run()

    def stream_between(
        self,
        prefix: str,
        suffix: str,
        tokens: int | tuple[int, int] = (1, 16),
        options: GenerationOptions | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> TextStream:
        """As `infill` with a prefix and a suffix, but hands over every commit when it happens."""
        return self._filling([between(prefix, suffix, tokens)], _whole(options, settings), seeds)

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
                braces are text, so that a template may be JSON; but `{name}` is refused. `[MASK]` is a blank as in
                `infill`.
            options, seeds, **settings: as in `infill`.

        Returns:
            One result per template; `fields` is name -> text without the space around it.

        Raises:
            ConfigError: as `infill`; and two fields of one name.
        """
        return self.stream_template(templates, options, seeds=seeds, **settings).run()

    def stream_template(
        self,
        templates: str | Sequence[str],
        options: GenerationOptions | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> TextStream:
        """As `fill_template`, but hands over every commit when it happens."""
        read = [read_text(text, self.tokenizer, fields=True) for text in several(templates)]
        return self._filling(read, _whole(options, settings), seeds)

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
        """Estimate log p(target | prompt) in nats: of a diffusion model a lower bound, by `samples` masked copies.

        As `log_likelihoods` of one pair, without its standard error.
        """
        return self.log_likelihoods([(prompt, target)], samples=samples, seed=seed)[0].mean

    def log_likelihoods(
        self,
        pairs: Sequence[tuple[Prompt, str | Sequence[int]]],
        *,
        samples: int = 128,
        seed: int = 0,
        batch_size: int = 32,
        guidance_scale: float = 0.0,
    ) -> list[LikelihoodEstimate]:
        """Estimate log p(target | prompt) of each pair, in nats, with standard errors.

        Of a diffusion model it is a lower bound: exact where a target (of a block-causal model: each block) has no
        more than `samples` masks, which are 2 ** n - 1 of n tokens. Of an autoregressive one it is exact, by one
        forward; where it is given no prompt, the token that begins a text stands before the target.

        Args:
            pairs: prompts as `generate` takes them, and targets, texts or ids. Two texts are encoded together, as one;
                spaces at the end of the prompt count as the target's.
            samples: masked copies of each target, at most.
            seed: of the masks; all targets of one length get the same.
            batch_size: copies per forward, whosever they are; changes no result beyond rounding; nor do other pairs.
            guidance_scale: classifier-free guidance of every prediction, as LLaDA's evaluation has it; 0 is none. With
                it the results are scores.

        Raises:
            ConfigError: a setting is out of range, a prompt or target is none, or both are longer than the model reads.
        """
        split = [pair_ids(prompt, target, self.tokenizer) for prompt, target in pairs]
        done = dict(estimates(self.model, self.tokenizer, split, Scoring(samples, seed, batch_size, guidance_scale)))
        return [done[number] for number in range(len(split))]

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

    @property
    def _denoiser(self) -> Denoiser:
        return Aligned(self.model) if self.model.facts.attention == "causal" else self.model

    @property
    def _mask_token_id(self) -> int:
        return mask_token_id(self.tokenizer, self.model)

    def _chosen(self, options: GenerationOptions | None, settings: dict[str, Any]) -> GenerationOptions:
        """The options asked for, as the model was made for where they do not say."""
        chosen, facts = _options(options, settings), self.model.facts
        is_sized = options is not None or "block_size" in settings
        return as_made(chosen if is_sized else own_blocks(chosen, facts), facts)

    def check_language(self, options: GenerationOptions) -> None:
        """Raises ConfigError: the regex or schema cannot be used, or has no text that is short enough."""
        automaton = self._constraints.automaton(options)
        shortest = None if automaton is None else automaton.paths((), ()).shortest()
        if shortest is not None and not options.max_length and shortest > options.max_new_tokens:
            raise ConfigError(
                f"the shortest text of the grammar has {shortest} tokens, and max_new_tokens is "
                f"{options.max_new_tokens}. Give max_new_tokens {shortest} or more."
            )

    def _row_of(self, options: GenerationOptions, number: int, prompt: Prompt) -> TextRow:
        """The row of a prompt that leaves room for an answer."""
        row = TextRow(self.encode(prompt), isinstance(prompt, str))
        room(len(row.ids), options, self.model.facts.shape.max_length, f"prompt {number}")
        return row

    def _many(
        self, rows: Iterator[Asked], options: GenerationOptions, batch_size: int
    ) -> Iterator[tuple[int, Generation]]:
        ends, finish = partial(ends_at_stop, options, self.tokenizer), partial(continued, options, self.tokenizer)
        automaton = self._constraints.automaton(options)
        with at_work(self.model):
            # rows of one length come together, and with max_length only these have room for the same number of tokens
            for length, group in groupby(rows, lambda asked: len(asked.row.ids) if options.max_length else 0):
                own = with_room(options, length)
                decode = partial(continuous, self._denoiser, options=own, batch_size=batch_size, **self._world(own))
                yield from finished_rows(group, decode, ends, finish, automaton)

    def _decoding(self, rows: Sequence[Asked], options: GenerationOptions) -> Decoding:
        automaton = self._constraints.automaton(options)
        waiting = [
            Waiting(row.ids, seed, ends_at_stop(options, self.tokenizer, row), automaton, number)
            for number, row, seed in rows
        ]
        with shortage_told(self.model):
            return stream_rows(self._denoiser, waiting, options=options, **self._world(options))

    def _world(self, options: GenerationOptions) -> dict[str, Any]:
        """What the loop is told about the model."""
        return {
            "mask_token_id": None if self.model.facts.attention == "causal" else self._mask_token_id,
            "stop_token_ids": self._stop_token_ids(options),
            "vocab_size": self.model.facts.shape.vocab_size,
            "device": self.model.device,
        }

    def _stop_token_ids(self, options: GenerationOptions) -> tuple[int, ...]:
        """Those of the model, and stop strings that are a special token: these are in no text."""
        special = dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))
        asked = [special[text] for text in options.stop if text in special]
        return tuple(dict.fromkeys([*stop_token_ids(self.tokenizer, self.model), *asked]))

    def _filling(
        self, read: Sequence[Blanked | BlankRow], options: GenerationOptions, seeds: Sequence[int] | None
    ) -> TextStream:
        refuse_infilling(self.model.facts)
        automaton = self._constraints.automaton(options)
        return Filler(self.model, self.tokenizer, as_made(options, self.model.facts), automaton).stream(read, seeds)


def _options(options: GenerationOptions | None, settings: dict[str, Any]) -> GenerationOptions:
    if options is not None and settings:
        raise ConfigError(f"both options and {', '.join(settings)} are given; put everything into one of them.")
    if "stop" in settings:
        stop = settings["stop"]
        settings = {**settings, "stop": (stop,) if isinstance(stop, str) else tuple(stop)}
    return options or GenerationOptions.of(**settings)


def _whole(options: GenerationOptions | None, settings: dict[str, Any]) -> GenerationOptions:
    """The options for filling in: the whole text is one block unless a size is given."""
    return _options(options, settings if options else {"block_size": None, **settings})
