"""`unmask show`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests import tiny
from unmask.cli.aliases import ALIASES
from unmask.cli.main import main
from unmask.cli.show import KINDS, REGISTRIES
from unmask.cli.show_memory import card_for


def test_every_registry_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {kind: [row["name"] for row in rows] for kind, rows in told.items()} == {
        kind: [*registry.standing_in, *registry.names()] for kind, registry in REGISTRIES.items()
    }
    assert {row["name"]: row["what"] for row in told["caches"]}["auto"].startswith("stands for block where")
    assert all(row["what"].strip() for rows in told.values() for row in rows)


def test_one_kind_as_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["show", "aliases", "schedules"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n{name} " in told for name in (*ALIASES, *REGISTRIES["schedules"].names(), "job_name", "configs"))


def test_unknown_kinds(refusal: Callable[..., str]) -> None:
    told = refusal("show", "strategis")
    assert told == f'nothing called "strategis" to show. Did you mean "strategies"? Kinds: {", ".join(KINDS)}.'


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write_checkpoint(tmp_path_factory.mktemp("memory") / "bare", weights=False))


def test_memory_of_one_device_and_of_several(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("show", "memory", "--model", bare, "--max_length", "64", "--bf16", "false")
    assert main([*base, "--json"]) == 0
    (alone,) = json.loads(capsys.readouterr().out)["memory"]
    assert alone["weights"] == alone["gradients"] == alone["optimizer"] // 2
    assert alone["peak"] > alone["weights"] + alone["optimizer"] and alone["fits"] == 8
    assert main([*base, "--num_processes", "4", "--gradient_checkpointing", "--json"]) == 0
    several = json.loads(capsys.readouterr().out)["memory"]
    assert [one["sharing"] for one in several] == ["ddp", "zero1", "zero2", "zero3", "fsdp"]
    assert several[-1]["weights"] == alone["weights"] // 4
    assert several[0]["activations"] < alone["activations"]


def test_memory_as_a_table(bare: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["show", "memory", "--model", bare, "--max_length", "64", "--num_processes", "2"]) == 0
    told = capsys.readouterr().out
    assert "activations" in told and "zero3 / 2" in told and "…" not in told


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        (("memory",), "show memory needs a model. Give --model_name_or_path"),
        (("strategies", "--lora"), "--lora belongs to: unmask show memory"),
        (("memory", "--model", "nowhere/at/all"), 'no folder "nowhere/at/all"'),
        (("memory", "--model", "@", "--max_length", "0"), "--max_length must be >= 1; got 0"),
        (("memory", "--model", "@", "--max_length", "100000"), "the model was made for 256 positions at most"),
        (("memory", "--model", "@", "--load_in_4bit"), "quantised weights cannot be trained. Add --lora"),
        (("memory", "--model", "@", "--loar"), 'Did you mean "--lora"?'),
    ],
)
def test_mistakes_about_memory(refusal: Callable[..., str], bare: str, argv: tuple[str, ...], phrase: str) -> None:
    assert phrase in refusal("show", *(bare if word == "@" else word for word in argv))


@pytest.mark.parametrize(("size", "card"), [(1, 8), (7 * 2**30, 12), (75 * 2**30, 80), (10**15, None)])
def test_the_smallest_card_that_holds_it(size: int, card: int | None) -> None:
    assert card_for(size) == card
