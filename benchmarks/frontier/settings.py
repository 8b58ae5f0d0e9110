"""What is compared: strategies over their knobs without a cache, and all caches under each strategy's usual knob.

One setting is the same for all tasks. Data only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BLOCK = 8
QUOTA = ("margin", "entropy", "random", "dream")


@dataclass(frozen=True)
class Setting:
    """One way to decode.

    Attributes:
        strategy, knob, cache: as in the tables.
        options: of `lm.generate`, beside the length.
    """

    strategy: str
    knob: str
    cache: str = "none"
    options: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """All of it in one text."""
        return f"{self.strategy} {self.knob} / {self.cache}"

    def with_cache(self, cache: str) -> Setting:
        """The same decisions on another cache."""
        return Setting(self.strategy, self.knob, cache, {**self.options, **CACHES[cache]})


def _quota(strategy: str, each: int) -> Setting:
    return Setting(strategy, f"{each} a step", options={"strategy": strategy, "steps_per_block": BLOCK // each})


def _test(strategy: str, knob: str, **options: Any) -> Setting:
    return Setting(strategy, knob, options={"strategy": strategy, **options})


# the knob of a strategy that stands for it where the caches are compared comes first
KNOBS: dict[str, tuple[Setting, ...]] = {
    "confidence": tuple(_quota("confidence", each) for each in (1, 2, 4)),
    **{name: tuple(_quota(name, each) for each in (1, 2)) for name in QUOTA},
    "threshold": (
        *(_test("threshold", f"{value:g}", threshold=value) for value in (0.9, 0.98, 0.95, 0.7, 0.5)),
        _test("threshold", "0.9 of margin", threshold=0.9, score="margin"),
    ),
    "factor": tuple(_test("factor", f"{value:g}", factor=value) for value in (1.0, 0.3, 2.0)),
    "entropy_bounded": tuple(_test("entropy_bounded", f"{value:g}", entropy_bound=value) for value in (0.15, 0.5, 1.5)),
    "adaptive": tuple(
        _test("adaptive", f"{value:g}", threshold=0.9, threshold_decay=value) for value in (0.3, 0.1, 0.6)
    ),
    "credit": tuple(_test("credit", f"{value:g}", threshold=value) for value in (0.9, 0.98)),
    "hierarchical": (
        _test("hierarchical", "0.9, 0.4", threshold=0.9, run_threshold=0.4),
        _test("hierarchical", "0.98, 0.8", threshold=0.98, run_threshold=0.8),
    ),
    "klass": tuple(_test("klass", f"{value:g}", threshold=value) for value in (0.9, 0.6)),
    "slow_fast": tuple(_test("slow_fast", f"{value:g}", threshold=value) for value in (0.9, 0.7)),
    "local_leap": tuple(_test("local_leap", f"{value:g}", leap_threshold=value) for value in (0.75, 0.5)),
    "revoke": (
        _test("revoke", "0.6, 0.9", threshold=0.6, verify_threshold=0.9),
        _test("revoke", "0.8, 0.9", threshold=0.8, verify_threshold=0.9),
        _test("revoke", "0.5, 0.5", threshold=0.5, verify_threshold=0.5),
    ),
    "edit": tuple(_test("edit", f"{value:g}, 0.9", threshold=value, edit_threshold=0.9) for value in (0.9, 0.7, 0.5)),
    "llada2": (_test("llada2", "0.95", threshold=0.95, steps_per_block=BLOCK),),
}
CACHES: dict[str, dict[str, Any]] = {
    "none": {"cache": "none"},
    "prefix": {"cache": "prefix"},
    "prefix, horizon 8": {"cache": "prefix", "cache_horizon": BLOCK},
    "dual": {"cache": "dual"},
    "dual, delay 4": {"cache": "dual", "cache_delay": 4},
    "dual, all before": {"cache": "dual", "cache_before": 512},
    "vicinity 4": {"cache": "vicinity", "cache_before": 4, "cache_after": 4},
    "interval 4": {"cache": "interval", "cache_interval": 4},
    "interval 16": {"cache": "interval", "cache_interval": 16},
    "verify 100, 7": {"cache": "verify"},
    "verify 16, 4": {"cache": "verify", "cache_interval": 16, "cache_answer_interval": 4},
}
# answers of unknown length, in the task that has them: room given from the start, or found while writing
ROOM = 96
LENGTHS = (
    *(_test("threshold", f"0.9, room {room}", threshold=0.9, max_new_tokens=room) for room in (16, 24, 48, ROOM)),
    *(
        _test(
            "threshold",
            f"0.9, open from {first}, window {window}",
            threshold=0.9,
            max_new_tokens=ROOM,
            open_length=True,
            initial_length=first,
            end_window=window,
        )
        for first, window in ((8, 8), (16, 8), (64, 32))
    ),
)
# under confidence and threshold all are tried, under other fixed numbers a step two, under other tests four
SOME, MORE = ("prefix", "dual"), ("prefix", "dual", "vicinity 4", "interval 4", "verify 16, 4")
BASELINE = KNOBS["confidence"][0].with_cache("none")


def settings(task: str | None = None) -> list[Setting]:
    """Everything, the most telling first; of one task, or what is measured in all of them."""
    found = [setting.with_cache("none") for knobs in KNOBS.values() for setting in knobs]
    for strategy, knobs in KNOBS.items():
        caches = SOME if strategy in (*QUOTA, "llada2") else MORE
        if strategy in ("confidence", "threshold"):
            caches = tuple(CACHES)[1:]
        found += [knobs[0].with_cache(cache) for cache in caches]
    found += [KNOBS["threshold"][1].with_cache(cache) for cache in MORE]
    return found + (list(LENGTHS) if task == "tables" else [])
