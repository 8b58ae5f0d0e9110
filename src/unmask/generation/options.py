"""What a user may choose about generation, checked when it is made. Knows no tensor and no tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from unmask.errors import ConfigError, did_you_mean
from unmask.registry import CACHES, NOISE_SCHEDULES, STRATEGIES

Reveal = Literal["even", "rounded"]
Attention = Literal["auto", "bidirectional", "block_causal"]
# far beyond any canvas; a table of the steps is made
MOST_STEPS = 100_000


@dataclass(frozen=True)
class GenerationOptions:
    """Settings of one generation.

    Raises:
        ConfigError: a value is outside its range, or a name is unknown.
    """

    max_new_tokens: int = 128
    """Tokens written after each prompt; infilling ignores it."""

    max_length: int | None = None
    """Tokens of a prompt and what is written after it together, instead of max_new_tokens; infilling ignores it."""

    min_new_tokens: int = 0
    """No stop token is written among the first so many tokens, and no stop string ends them; infilling ignores it."""

    stop: tuple[str, ...] = ()
    """Texts that end an answer, which is cut before the first of them; infilling ignores them."""

    block_size: int | None = 32
    """Tokens decoded together before the next ones are begun, left to right; null: the whole canvas is one block."""

    attention: Attention = "auto"
    """Who sees whom: everybody (bidirectional), or each block itself and what is before it, blocks being counted from
    the row's beginning (block_causal); auto: what the model was made for."""

    steps: int = 128
    """Denoising steps in all, spread evenly over the blocks of the longest row; fewer steps commit more at once."""

    steps_per_block: int | None = None
    """Denoising steps of each block, instead of a share of steps."""

    strategy: str = "confidence"
    """Which masked positions to commit at each step; `unmask show strategies` lists them."""

    reveal: Reveal = "even"
    """How many tokens each step commits: even (larger counts first) or rounded (follows noise_schedule)."""

    noise_schedule: str = "linear"
    """Noise schedule that reveal=rounded follows."""

    threshold: float = 0.9
    """Strategy threshold: commit every token whose probability is at least this, and always the best one."""

    temperature: float = 0.0
    """0 takes the most probable token; above 0 samples, hotter is more varied."""

    precise_sampling: bool = False
    """Compute probabilities in float64 instead of float32."""

    guidance_scale: float = 0.0
    """Classifier-free guidance towards the prompt; 0 is off, above 0 doubles the work of each step."""

    guidance_keep: Sequence[int] = ()
    """Ids of prompt tokens that the unconditional half of guidance still sees."""

    suppress_tokens: Sequence[int] = ()
    """Ids that are never proposed."""

    begin_suppress_tokens: Sequence[int] = ()
    """Ids that are committed last: proposed, but with no confidence."""

    early_stop: bool = True
    """Stop a row once a stop token and everything before it are committed; false decodes the whole canvas."""

    cache: str = "none"
    """What is reused from one step to the next; `unmask show caches` lists them."""

    seed: int = 0
    """Seed of the first row; row i uses seed + i."""

    trace: bool = False
    """Keep what was committed where and when."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "steps", "max_length", "block_size", "steps_per_block"):
            if getattr(self, name) is not None or name in ("max_new_tokens", "steps"):
                _at_least_one(name, getattr(self, name))
        if self.min_new_tokens != 0:
            _at_least_one("min_new_tokens", self.min_new_tokens)
        object.__setattr__(self, "stop", _texts("stop", self.stop))
        for name in ("steps", "steps_per_block"):
            if (getattr(self, name) or 0) > MOST_STEPS:
                raise ConfigError(
                    f"{name} is {getattr(self, name):,}; it must be at most {MOST_STEPS:,}. More steps than tokens to "
                    "write change nothing."
                )
        _within("temperature", self.temperature, 0.0, None)
        _within("guidance_scale", self.guidance_scale, 0.0, None)
        _within("threshold", self.threshold, 0.0, 1.0)
        if self.reveal not in get_args(Reveal):
            raise ConfigError(f'reveal is "{self.reveal}"; it can be {" or ".join(get_args(Reveal))}.')
        if self.attention not in get_args(Attention):
            raise ConfigError(f'attention is "{self.attention}"; it can be {", ".join(get_args(Attention))}.')
        for name in ("suppress_tokens", "begin_suppress_tokens", "guidance_keep"):
            object.__setattr__(self, name, _token_ids(name, getattr(self, name)))
        for table, name in ((STRATEGIES, self.strategy), (CACHES, self.cache), (NOISE_SCHEDULES, self.noise_schedule)):
            if name not in table.names():
                table.get(name)

    @classmethod
    def of(cls, **settings: Any) -> GenerationOptions:
        """Options from keyword arguments.

        Raises:
            ConfigError: an unknown name; the message names the nearest one.
        """
        names = [entry.name for entry in fields(cls)]
        for name in settings:
            if name not in names:
                raise ConfigError(
                    f'"{name}" is no option of generation.{did_you_mean(name, names)} Options: {", ".join(names)}.'
                )
        return cls(**settings)


def _at_least_one(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number, at least 1.")


def _within(name: str, value: Any, low: float, high: float | None) -> None:
    allowed = f"a number from {low:g} to {high:g}" if high is not None else f"a finite number, at least {low:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; it must be {allowed}.")
    if value < low or (high is not None and value > high):
        raise ConfigError(f"{name} is {value!r}; it must be {allowed}.")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise ConfigError(f"{name} has {text!r}; it is a text, or a list of texts, none of them empty.")
    return texts


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    ids = tuple(value)
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise ConfigError(f"{name} has {token_id!r}; it is a list of token ids, whole numbers from 0.")
    return ids
