"""What a study of few data is asked for, and at which epochs it looks. Knows no tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from unmask.errors import ConfigError

SMALLEST_VOCABULARY = 260  # 256 bytes and the tokens that mean something else


@dataclass(frozen=True)
class StudyArguments:
    """What is trained on which data"""

    dataset_args: str | None = None
    """Texts, of which a part is held out: stories.txt[test:100]."""
    text_field: str = "text"
    """Column of the texts."""
    output_dir: str | None = None
    """Folder for runs, points.jsonl, results.json, .md and .html, curves.svg; an interrupted study is gone on with."""
    unique_tokens: list[int] = field(default_factory=lambda: [50_000])
    """Tokens that are trained on again and again; a study for each number. Rounded to whole updates."""
    num_train_epochs: int = 256
    """Passes over these tokens."""
    points_per_doubling: int = 2
    """Evaluations while the epochs double; of a study that has begun, in the epochs that are still ahead."""
    stop_rising: float = 4.0
    """End the autoregressive run when its epochs are so many times those of its lowest loss; 0: never."""
    vocab_size: int = 512
    """Tokens of the byte-level BPE that is made of all texts that are not held out."""
    hidden_size: int = 128
    """Width of the network, a Qwen2."""
    intermediate_size: int = 384
    """Width inside its MLPs."""
    num_hidden_layers: int = 4
    """Its layers."""
    num_attention_heads: int = 4
    """Heads of each."""
    max_length: int = 128
    """Tokens of a row, in training and evaluation, the one that begins it included."""
    per_device_train_batch_size: int = 16
    """Rows of an update."""
    learning_rate: float = 1e-3
    """Constant after the warmup, so that every point of a curve lies on one run."""
    warmup_steps: int = 100
    """Updates in which the learning rate rises."""
    weight_decay: float = 0.1
    """Of AdamW."""
    adam_beta2: float = 0.95
    """Of AdamW."""
    seed: int = 0
    """Of first weights, order, noise and evaluation's masks."""
    samples: int = 16
    """Masked copies of each held-out row under which the bound is estimated."""
    save_steps: int = 1000
    """Updates between checkpoints within a run, beside those at each evaluation."""
    json: bool = False
    """Print the results as one JSON object."""

    def __post_init__(self) -> None:
        for name in ("dataset_args", "output_dir"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is missing. Give --{name}, or name it in the recipe.")
        for name in (entry.name for entry in fields(self) if entry.type == "int" and entry.name not in _RANGES):
            if getattr(self, name) < _LEAST.get(name, 1):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {_LEAST.get(name, 1)}.")
        for name, (allowed, fits) in _RANGES.items():
            if not fits(getattr(self, name)):
                default = type(self).__dataclass_fields__[name].default
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be {allowed}. Example: {default}")
        for tokens in self.unique_tokens:
            if tokens < self.tokens_per_update:
                raise ConfigError(
                    f"unique_tokens has {tokens:,}; an update alone takes {self.tokens_per_update:,}. Give more, or "
                    "lower per_device_train_batch_size or max_length."
                )
        if not self.unique_tokens:
            raise ConfigError("unique_tokens is empty. Example: 25000,100000")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ConfigError(
                f"hidden_size ({self.hidden_size}) must be a multiple of twice num_attention_heads "
                f"({self.num_attention_heads})."
            )

    @property
    def tokens_per_update(self) -> int:
        """Without those that begin rows, which are the same in all."""
        return self.per_device_train_batch_size * (self.max_length - 1)

    def updates_per_epoch(self, unique_tokens: int) -> int:
        """Whole updates, the nearest number."""
        return round(unique_tokens / self.tokens_per_update)

    def rows(self, unique_tokens: int) -> int:
        """Rows of these updates."""
        return self.updates_per_epoch(unique_tokens) * self.per_device_train_batch_size

    def epochs(self) -> list[int]:
        """At which the models are evaluated: 1, powers of two and what is between them, the last one."""
        found, power = {self.num_train_epochs}, 0
        while (epoch := round(2 ** (power / self.points_per_doubling))) < self.num_train_epochs:
            found.add(epoch)
            power += 1
        return sorted(found)


# of whole numbers that are not listed: 1
_LEAST = {"vocab_size": SMALLEST_VOCABULARY, "max_length": 2, "warmup_steps": 0}
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "stop_rising": ("a finite number of at least 0", lambda value: 0 <= value < math.inf),
    "learning_rate": ("a finite number above 0", lambda value: 0 < value < math.inf),
    "weight_decay": ("a finite number of at least 0", lambda value: 0 <= value < math.inf),
    "seed": ("from 0 to 4294967295", lambda value: 0 <= value < 2**32),
    "adam_beta2": ("above 0 and below 1", lambda value: 0 < value < 1),
}
