"""Tables of names that a user may type, each pointing at `module:attribute`, imported on first use.

Adding a schedule, strategy, cache, objective or family is one file and one line here. Another package adds its own
through an entry point in the group named by the table (`unmask.strategies`, for example).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from unmask.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Registry:
    """A table from a name to the `module:attribute` that implements it.

    `standing_in` has names that may be typed, too, and stand for one of the table, with what decides for which.
    """

    kind: str
    group: str
    table: dict[str, str] = field(hash=False)
    standing_in: dict[str, str] = field(hash=False, default_factory=dict[str, str])

    def names(self) -> list[str]:
        """All names, our own and those of installed plug-ins, sorted."""
        return sorted({*self.table, *(point.name for point in _plugins(self.group))})

    def get(self, name: str) -> Any:
        """Import and return what `name` stands for.

        Raises:
            ConfigError: no such name; the message lists the names and the nearest one.
        """
        if name in self.table:
            module, _, attribute = self.table[name].partition(":")
            return getattr(import_module(module), attribute)
        for point in _plugins(self.group):
            if point.name == name:
                return point.load()
        allowed = sorted({*self.names(), *self.standing_in})
        raise ConfigError(f'{self.kind} "{name}" is not one of {", ".join(allowed)}.{did_you_mean(name, allowed)}')


@cache
def _plugins(group: str) -> tuple[Any, ...]:
    return tuple(entry_points(group=group))


FAMILIES = Registry(
    "model family",
    "unmask.families",
    {
        "a2d-llama": "unmask.models.families.a2d_llama:FAMILY",
        "a2d-qwen2": "unmask.models.families.a2d_qwen2:FAMILY",
        "a2d-qwen3": "unmask.models.families.a2d_qwen3:FAMILY",
        "dream": "unmask.models.families.dream:FAMILY",
        "llada": "unmask.models.families.llada:FAMILY",
        "llada2": "unmask.models.families.llada2:FAMILY",
        "llada_moe": "unmask.models.families.llada_moe:FAMILY",
        "llama": "unmask.models.families.llama:FAMILY",
        "mistral": "unmask.models.families.mistral:FAMILY",
        "qwen2": "unmask.models.families.qwen2:FAMILY",
        "qwen3": "unmask.models.families.qwen3:FAMILY",
    },
)

NOISE_SCHEDULES = Registry(
    "noise schedule",
    "unmask.noise_schedules",
    {
        "cosine": "unmask.diffusion.schedules:Cosine",
        "linear": "unmask.diffusion.schedules:Linear",
        "maskgit_cosine": "unmask.diffusion.schedules:MaskgitCosine",
        "polynomial": "unmask.diffusion.schedules:Polynomial",
    },
)

OBJECTIVES = Registry(
    "objective",
    "unmask.objectives",
    {
        "autoregressive": "unmask.objectives.autoregressive:Autoregressive",
        "block": "unmask.objectives.block:BlockDiffusion",
        "masked": "unmask.objectives.masked:MaskedDiffusion",
    },
)

STRATEGIES = Registry(
    "strategy",
    "unmask.strategies",
    {
        "adaptive": "unmask.generation.strategies.adaptive:Adaptive",
        "confidence": "unmask.generation.strategies.confidence:Confidence",
        "credit": "unmask.generation.strategies.credit:Credit",
        "dream": "unmask.generation.strategies.dream:Dream",
        "edit": "unmask.generation.strategies.edit:Edit",
        "entropy": "unmask.generation.strategies.entropy:Entropy",
        "entropy_bounded": "unmask.generation.strategies.entropy_bounded:EntropyBounded",
        "factor": "unmask.generation.strategies.factor:Factor",
        "hierarchical": "unmask.generation.strategies.hierarchical:Hierarchical",
        "klass": "unmask.generation.strategies.klass:Klass",
        "llada2": "unmask.generation.strategies.llada2:LLaDA2",
        "local_leap": "unmask.generation.strategies.local_leap:LocalLeap",
        "margin": "unmask.generation.strategies.margin:Margin",
        "random": "unmask.generation.strategies.random:Random",
        "revoke": "unmask.generation.strategies.revoke:Revoke",
        "slow_fast": "unmask.generation.strategies.slow_fast:SlowFast",
        "threshold": "unmask.generation.strategies.threshold:Threshold",
    },
)

CACHES = Registry(
    "cache",
    "unmask.caches",
    {
        "none": "unmask.generation.caching.none:NoCache",
        "block": "unmask.generation.caching.block:BlockCache",
        "prefix": "unmask.generation.caching.windowed:PrefixCache",
        "dual": "unmask.generation.caching.windowed:DualCache",
        "vicinity": "unmask.generation.caching.windowed:VicinityCache",
        "interval": "unmask.generation.caching.windowed:IntervalCache",
        "verify": "unmask.generation.caching.verify:VerifyCache",
    },
    standing_in={"auto": "block where blocks see nothing behind them, which is exact; none for all other models"},
)
