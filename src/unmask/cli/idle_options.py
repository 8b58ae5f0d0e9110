"""Which options of generation have no effect beside the strategy, the cache and the switches that were chosen.

Strategies say themselves what they read; caches are told of here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

from unmask.cli.config import Parsed, say
from unmask.generation.options import GenerationOptions
from unmask.registry import CACHES, STRATEGIES

if TYPE_CHECKING:
    from typing import Any

_WINDOWED = ("prefix", "dual", "vicinity", "interval")
CACHE_OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("before", "after", "warmup", "delay", "horizon", "drift"), _WINDOWED),
    "interval": (*_WINDOWED, "verify"),
    "answer_interval": ("verify",),
    "share": ("verify",),
    # auto is block where that is exact
    "fuse": ("block", "auto"),
}
LENGTH_OPTIONS = (
    "initial_length",
    "lengthen_by",
    "end_window",
    "end_threshold",
    "insert_end_threshold",
    "insert_threshold",
)
# where a text ends is told by its blanks, if it has some
_OF_ENDS = ("max_new_tokens", "min_new_tokens", "max_length", "stop", "early_stop", "open_length", *LENGTH_OPTIONS)
# read by the loop for whatever strategy asks for a number, or by all strategies
_ANY_STRATEGY = ("reveal", "score")


def tell_idle(parsed: Parsed, options: GenerationOptions, *, fills: bool = False) -> None:
    """Note on stderr, in one line, which options the user gave in vain; `fills`: for texts with blanks."""
    known = {entry.name for entry in fields(options)}
    names = [name for name in parsed.given if name in known]
    found: dict[str, list[str]] = {}
    for name, reason in idle(names, options, fills=fills).items():
        found.setdefault(reason, []).append(parsed.label(name))
    if found:
        parts = [f"{reason} does not use {', '.join(labels)}" for reason, labels in found.items()]
        say((f"note: {'; '.join(parts)}",))


def idle(names: Iterable[str], options: GenerationOptions, *, fills: bool = False) -> dict[str, str]:
    """Those of the names that have no effect, and beside what; options at their defaults are left out."""
    plain, found = GenerationOptions(), dict[str, str]()
    for name in names:
        reason = "infill" if fills and name in _OF_ENDS else _reason(name, options)
        if reason and getattr(options, name) != getattr(plain, name):
            found[name] = reason
    return found


def _reason(name: str, options: GenerationOptions) -> str:
    """What does not read an option; empty where something does, or where it is not known."""
    if name in LENGTH_OPTIONS:
        return "" if options.open_length else "open_length false"
    if name == "steps":
        return f"steps_per_block {options.steps_per_block}" if options.steps_per_block else ""
    if name == "guidance_keep":
        return "" if options.guidance_scale else "guidance_scale 0"
    if name.startswith("cache_"):
        is_known = options.cache in CACHES.table or options.cache in CACHES.standing_in
        readers = CACHE_OPTIONS[name.removeprefix("cache_")]
        return f"cache {options.cache}" if is_known and options.cache not in readers else ""
    others = {knob for other in STRATEGIES.table for knob in strategy_options(STRATEGIES.get(other))}
    if name not in others - {*_ANY_STRATEGY} or options.strategy not in STRATEGIES.table:
        return ""
    return "" if name in strategy_options(STRATEGIES.get(options.strategy)) else f"strategy {options.strategy}"


def strategy_options(strategy: Any) -> list[str]:
    """The names of the options that a strategy says it reads."""
    return strategy.knobs.split(", ")
