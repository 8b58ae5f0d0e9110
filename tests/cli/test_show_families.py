"""`unmask show families`, and the README's table of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli.main import main
from unmask.cli.show_families import BEGIN, END, families_in_markdown
from unmask.registry import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    assert main(["show", "families", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["families"]}


def test_facts_are_the_registry_s(told: dict[str, dict[str, str]]) -> None:
    assert list(told) == FAMILIES.names()
    assert told["dream"]["shift"] == "one row" and told["llada"]["shift"] == "none"
    assert told["llada"]["mask token"] == "<|mdm_mask|>" and told["mistral"]["mask token"] == "none"
    assert told["llada2"]["attention"] == "block-causal"
    assert told["llada2"]["parameters"] == "16.26 B (LLaDA2.0-mini), 102.89 B (LLaDA2.0-flash)"
    assert told["llada"]["what"].startswith("LLaDA (8B Base, Instruct, 1.5)")


def test_what_works_follows_from_them(told: dict[str, dict[str, str]]) -> None:
    for name, row in told.items():
        family = FAMILIES.get(name)
        assert ("infill" in row["works"]) == (family.mask_token is not None) == ("convert" not in row["works"])
        assert ("on experts too" in row["works"]) == name.startswith(("llada2", "llada_moe"))


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readme_has_the_table(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    table = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert table == families_in_markdown().strip(), f"put what `unmask show families --markdown` prints into {readme}"


def test_markdown(capsys: pytest.CaptureFixture[str], refusal: Callable[..., str]) -> None:
    assert main(["show", "families", "--markdown"]) == 0
    assert capsys.readouterr().out == families_in_markdown()
    assert refusal("show", "--markdown") == "--markdown belongs to: unmask show families"
