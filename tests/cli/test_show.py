"""`unmask show`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from unmask.cli.aliases import ALIASES
from unmask.cli.main import main
from unmask.cli.show import KINDS, REGISTRIES


def test_every_registry_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {kind: [row["name"] for row in rows] for kind, rows in told.items()} == {
        kind: registry.names() for kind, registry in REGISTRIES.items()
    }
    assert all(row["what"].strip() for rows in told.values() for row in rows)


def test_one_kind_as_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["show", "aliases", "schedules"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n{name} " in told for name in (*ALIASES, *REGISTRIES["schedules"].names(), "job_name", "configs"))


def test_unknown_kinds(refusal: Callable[..., str]) -> None:
    told = refusal("show", "strategis")
    assert told == f'nothing called "strategis" to show. Did you mean "strategies"? Kinds: {", ".join(KINDS)}.'
