"""The public face: a model with its tokenizer, text in, text out.

Everything is done elsewhere: the networks are in `models`, decoding is in `generation`, likelihoods are in
`objectives`. This file turns text into ids and back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedTokenizerBase

from unmask.data.blanks import BLANK, blanked_ids, filled_text
from unmask.data.chat import check_unicode, prompt_ids
from unmask.errors import ConfigError, ResourceError
from unmask.generation.loop import Decoding, stream, stream_infill
from unmask.generation.options import GenerationOptions
from unmask.generation.trace import Commit, Completion, Stats, Trace
from unmask.models.adapters import base_of, has_adapter, is_adapter, load_adapter, save_adapter, tokenizer_folder
from unmask.models.card import saved_card, write_card
from unmask.models.checkpoints import load_model, resolve_folder, save_model
from unmask.models.families import ModelFamily
from unmask.models.shell import DiffusionModel
from unmask.models.tokenizers import load_tokenizer, mask_token_id, stop_token_ids
from unmask.objectives.estimators import log_likelihood

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Sequence[int] | Messages


@dataclass(frozen=True)
class Generation:
    """One result.

    Attributes:
        text: the continuation; for infilling the whole text, blanks filled.
        token_ids, finish_reason, stats, trace: see `unmask.generation.trace.Completion`.
    """

    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    stats: Stats
    trace: Trace | None = None


class TextStream:
    """A generation under way: iterate for its `Commit`s, then ask for its `generations()`."""

    def __init__(self, lm: DiffusionLM, decoding: Decoding, rows: Sequence[_Row]) -> None:
        self._lm, self._decoding, self._rows = lm, decoding, rows

    def __iter__(self) -> Iterator[Commit]:
        with self._lm._evaluating():
            yield from self._decoding

    def run(self) -> list[Generation]:
        """Go on to the end; one result per prompt."""
        with self._lm._evaluating():
            self._decoding.run()
        return self.generations()

    def canvas(self, row: int = 0) -> list[int | None]:
        """The ids of a row as it stands, its given text included; None where it is still masked."""
        canvas = self._decoding.canvas
        ids, masked = canvas.tokens_BL[row].tolist(), canvas.is_masked_BL[row].tolist()
        return [None if blank else token for token, blank in zip(ids, masked, strict=True)][: canvas.ends[row]]

    def generations(self) -> list[Generation]:
        """One result per prompt, as the canvas stands."""
        completions = self._decoding.completions()
        return [self._lm._generation(row, done) for row, done in zip(self._rows, completions, strict=True)]


@dataclass(frozen=True)
class _Row:
    """A row of ids; whether they are a text to be gone on with, or the text around their blanks."""

    ids: list[int]
    is_text: bool = False
    pieces: tuple[str, ...] = ()


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
        rows = [_Row(self.encode(prompt), isinstance(prompt, str)) for prompt in _several(prompts)]
        self._check_lengths(rows, options.max_new_tokens)
        decoding = stream(
            self.model,
            [row.ids for row in rows],
            options=options,
            mask_token_id=self._mask_token_id,
            stop_token_ids=stop_token_ids(self.tokenizer, self.model),
            seeds=seeds,
            vocab_size=self.model.facts.shape.vocab_size,
            device=self.model.device,
        )
        return TextStream(self, decoding, rows)

    def infill(
        self,
        texts: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
        options: GenerationOptions | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """Fill in blanks; nothing but the blanks changes.

        Args:
            texts: one or several; in a text each `[MASK]`, or the tokenizer's own mask token, is one blank token, and
                with it the space before it where the tokenizer says so (`lstrip`). In ids the mask token's id is one.
            options: all settings at once; None: `settings`, where `block_size` is the whole text unless given.
            seeds: one per text; None: `seed` + row.
            **settings: see `GenerationOptions`.

        Returns:
            One result per text, always a list; `text` and `token_ids` are the whole text's.

        Raises:
            ConfigError: as `generate`; and a text without a blank.
        """
        return self.stream_infill(texts, options, seeds=seeds, **settings).run()

    def stream_infill(
        self,
        texts: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
        options: GenerationOptions | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> TextStream:
        """As `infill`, but hands over every commit when it happens."""
        options = self._seeing(_options(options, settings if options else {"block_size": None, **settings}))
        rows = [self._blanked(text, number) for number, text in enumerate(_several(texts))]
        self._check_lengths(rows, 0)
        decoding = stream_infill(
            self.model,
            [row.ids for row in rows],
            options=options,
            mask_token_id=self._mask_token_id,
            seeds=seeds,
            vocab_size=self.model.facts.shape.vocab_size,
            device=self.model.device,
        )
        return TextStream(self, decoding, rows)

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt: a text, a list of ids, or messages, which go through the chat template.

        Raises:
            ConfigError: it is none of these.
            DataError: the template refuses the messages, or a text is no Unicode.
        """
        if isinstance(prompt, str):
            check_unicode(prompt)
            # verbose: transformers warns about any text longer than its guess of the model's limit
            return list(self.tokenizer(prompt, verbose=False)["input_ids"])
        if isinstance(prompt, Sequence) and all(isinstance(entry, Mapping) for entry in prompt) and prompt:
            for entry in cast(Messages, prompt):
                if "role" not in entry or "content" not in entry:
                    raise ConfigError(f'a message has the keys {sorted(entry)}; it needs "role" and "content".')
            return prompt_ids(prompt, self.tokenizer)  # type: ignore[arg-type]
        if isinstance(prompt, Sequence) and all(_is_id(entry) for entry in prompt):
            return list(cast("Sequence[int]", prompt))
        raise ConfigError(
            f"a prompt is a {type(prompt).__name__}; it must be a text, a list of token ids, or a list of messages "
            'such as {"role": "user", "content": "Hello"}.'
        )

    def log_likelihood(
        self, prompt: Prompt, target: str | Sequence[int], *, samples: int = 128, seed: int = 0
    ) -> float:
        """Estimate log p(target | prompt) in nats: a lower bound, by `samples` masked copies of the target.

        A text prompt and a text target are encoded together, as one text; spaces at the end of the prompt count as the
        target's. See `unmask.objectives.estimators` for the estimator and its standard error.
        """
        prompt_ids, target_ids = self._split(prompt, target)
        device = self.model.device
        with self._evaluating():
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

    def _blanked(self, text: Any, number: int) -> _Row:
        if isinstance(text, str):
            check_unicode(text)
            ids, pieces = blanked_ids(text, self.tokenizer)
            row = _Row(ids, pieces=pieces)
        else:
            row = _Row(self.encode(text))
        blanks = row.ids.count(self._mask_token_id)
        if blanks == 0:
            raise ConfigError(f"text {number} has no blank to fill in; write {BLANK} for each token that is missing.")
        return row

    def _check_lengths(self, rows: Sequence[_Row], new: int) -> None:
        limit = self.model.facts.shape.max_length
        for number, row in enumerate(rows):
            if len(row.ids) + new > limit:
                raise ConfigError(
                    f"prompt {number} has {len(row.ids):,} tokens, {len(row.ids) + new:,} with max_new_tokens; the "
                    f"model was made for {limit:,}. Shorten the prompt, or ask for fewer new tokens."
                )

    def _generation(self, row: _Row, done: Completion) -> Generation:
        if row.pieces:
            blanks = [place for place, token in enumerate(row.ids) if token == self._mask_token_id]
            text = filled_text(row.pieces, blanks, lambda first, last: self._decode_run(done.token_ids, first, last))
        elif row.is_text:
            text = self._decode_run([*row.ids, *done.token_ids], len(row.ids), len(row.ids) + len(done.token_ids))
        else:
            text = self._decode(done.token_ids)
        return Generation(text, done.token_ids, done.finish_reason, done.stats, done.trace)

    def _decode(self, token_ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast(str, text)

    def _decode_run(self, token_ids: Sequence[int], first: int, last: int) -> str:
        """Text of some tokens in their context: many tokenizers drop a space at the start of what they decode."""
        before, whole = self._decode(token_ids[:first]), self._decode(token_ids[:last])
        return whole[len(before) :] if whole.startswith(before) else self._decode(token_ids[first:last])

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Dropout off, and on again where it was."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    device: str | torch.device = "auto",
    adapter: str | os.PathLike[str] | None = None,
    quantization: str | None = None,
) -> DiffusionLM:
    """Load a model and its tokenizer.

    Args:
        name_or_path: folder or Hub id; a folder with an adapter brings the base it names.
        dtype: type of the weights; auto: as stored.
        device: auto: the first GPU, or the CPU where there is none.
        adapter: folder of a LoRA adapter to put on top.
        quantization: 4bit or 8bit: hold the layers' matrices in so few bits, through bitsandbytes; None: as stored.

    Raises:
        ConfigError: `dtype`, `device` or `quantization` is not one of those known.
        ModelError: there is no such model, or its files are missing, damaged or do not fit.
        ResourceError: the device is not there, or bitsandbytes is not installed.
    """
    folder = resolve_folder(name_or_path)
    name = name_or_path
    if adapter is None and is_adapter(folder):
        name, adapter = base_of(folder) or folder, folder
        folder = resolve_folder(name)
    model = load_model(folder, dtype=dtype, device=_device(device), quantization=quantization)  # type: ignore[arg-type]
    model.config._name_or_path = os.fspath(name)
    if adapter is not None:
        load_adapter(model, adapter)
    return DiffusionLM(model.eval(), load_tokenizer(tokenizer_folder(folder, adapter), model.facts))


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f'device "{name}" is unknown; use auto, cpu, cuda or cuda:N.') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f'device "{name}": no CUDA device is available here. Use device "cpu".')
    return device


def _options(options: GenerationOptions | None, settings: dict[str, Any]) -> GenerationOptions:
    if options is not None and settings:
        raise ConfigError(f"both options and {', '.join(settings)} are given; put everything into one of them.")
    return options or GenerationOptions.of(**settings)


def _several(prompts: Any) -> Sequence[Any]:
    """A list of prompts, whether one or several were given."""
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise ConfigError(
            f"prompts are a {type(prompts).__name__}; give a text, token ids, messages, or a list of them."
        )
    is_one = bool(prompts) and all(_is_id(entry) or isinstance(entry, Mapping) for entry in prompts)
    return [prompts] if is_one else prompts


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
