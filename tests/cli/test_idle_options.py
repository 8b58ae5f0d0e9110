"""Options that have no effect beside what was chosen are noted; those that have are not."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from unmask.cli.config import parse
from unmask.cli.idle_options import CACHE_OPTIONS, LENGTH_OPTIONS, idle, tell_idle
from unmask.cli.sampling import options_from, sampling_table
from unmask.generation.options import GenerationOptions
from unmask.registry import CACHES

TABLE = sampling_table("generate", "", "", ())
NAMES = [entry.name for entry in fields(GenerationOptions)]


def note(capsys: pytest.CaptureFixture[str], *argv: str, fills: bool = False) -> str:
    parsed = parse(list(argv), TABLE)
    assert parsed is not None
    tell_idle(parsed, options_from(parsed), fills=fills)
    return capsys.readouterr().err


def test_what_belongs_to_others_is_noted_in_one_line(capsys) -> None:
    given = ("--strategy", "confidence", "--factor", "3", "--threshold", "0.2", "--cache_interval", "4")
    assert note(capsys, *given) == (
        "note: strategy confidence does not use --factor, --threshold; cache auto does not use --cache_interval\n"
    )
    assert note(capsys, "--end_window", "8", "--guidance_keep", "3") == (
        "note: open_length false does not use --end_window; guidance_scale 0 does not use --guidance_keep\n"
    )
    assert note(capsys, "--steps", "8", "--steps_per_block", "4") == "note: steps_per_block 4 does not use --steps\n"
    ends = ("--max_new_tokens", "8", "--stop", "x", "--open_length", "true", "--end_window", "8")
    assert note(capsys, *ends, "--block_size", "4", fills=True) == (
        "note: infill does not use --max_new_tokens, --stop, --open_length, --end_window\n"
    )


@pytest.mark.parametrize(
    "given",
    [
        (),
        ("--strategy", "factor", "--factor", "3"),
        ("--strategy", "credit", "--threshold", "0.8", "--credit_weight", "0.5", "--commit_at_least", "quota"),
        ("--cache", "dual", "--cache_interval", "4", "--cache_drift", "0.1"),
        ("--cache", "verify", "--cache_interval", "4", "--cache_share", "0.5"),
        ("--cache_fuse", "false"),
        ("--score", "margin", "--reveal", "rounded", "--alg_temp", "0.1", "--noise_schedule", "cosine"),
        ("--factor", "1.0", "--kl_history", "2"),
        ("--open_length", "true", "--end_window", "8"),
        ("--max_new_tokens", "8", "--stop", "x", "--steps", "4"),
        ("--steps_per_block", "4"),
    ],
)
def test_what_has_an_effect_or_is_the_default_is_not(capsys, given: tuple[str, ...]) -> None:
    assert note(capsys, *given) == ""


class Watched(GenerationOptions):
    """Options that remember which of a cache's were read."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cache_"):
            vars(self).setdefault("read", set()).add(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("name", CACHES.names())
def test_the_table_of_caches_is_what_they_read(name: str) -> None:
    watched = Watched(cache=name)
    vars(watched)["read"] = set()
    CACHES.get(name)(watched)
    told = {f"cache_{knob}" for knob, readers in CACHE_OPTIONS.items() if name in readers}
    # cache verify reads the drift to refuse it
    assert vars(watched)["read"] - ({"cache_drift"} if name == "verify" else set()) == told


def test_every_option_of_a_cache_is_told_of() -> None:
    assert {f"cache_{knob}" for knob in CACHE_OPTIONS} == {name for name in NAMES if name.startswith("cache_")}
    assert {*LENGTH_OPTIONS} < {*NAMES}


def test_a_plug_in_may_read_anything() -> None:
    options = GenerationOptions(factor=3.0, cache_interval=4)
    for name in ("strategy", "cache"):
        object.__setattr__(options, name, "of-another-package")
    assert idle(NAMES, options) == {}
