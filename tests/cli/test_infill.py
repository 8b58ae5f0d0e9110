"""`unmask infill`: the time it tells, and what it refuses."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_checkpoint
from unmask.cli.main import main
from unmask.lm import DiffusionLM


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("model")))


def test_the_search_for_lengths_counts_as_time(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    real, searched = DiffusionLM.stream_infill, 1.5

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(searched)
        return real(*args, **kwargs)

    monkeypatch.setattr(DiffusionLM, "stream_infill", slow)
    asked = ["infill", "--model", model, "a[MASK:1-2]b"]
    assert main([*asked, "--json", "--trace", str(tmp_path / "t.json")]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] >= searched
    assert main(asked) == 0
    told = re.search(r"forwards, ([\d.]+) s", capsys.readouterr().err)
    assert told is not None and float(told[1]) >= searched


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        (["A [MASK:x] b [MASK]"], '"[MASK:x]" in the text is no blank. Write [MASK]'),
        (["A [MASK: 2] b [MASK]"], '"[MASK: 2]" in the text is no blank'),
        (["--template", '{"a": "{a:2}", "b": "{b}"}'], '"{b}" in the template is no field. Write {b:4}'),
        (["--template", '{"a": "{a:2}", "b": "{b:x}"}'], '"{b:x}" in the template is no field. Write {b:4}'),
        (["--template", '{"a": 1}'], "has no blank to fill in; write {a:4}"),
    ],
)
def test_what_is_nearly_a_blank_is_told(
    model: str, argv: list[str], phrase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infill", "--model", model, *argv]) == 2
    told = capsys.readouterr()
    assert phrase in told.err and "Traceback" not in told.err and told.out == ""
