"""`--trace` on the command line: three kinds of file from one generation."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.tiny import write_checkpoint
from unmask.cli import trace_files
from unmask.cli.main import main
from unmask.errors import ResourceError
from unmask.training.report import read_report

SHORT = ("--max_new_tokens", "6", "--steps", "3", "--block_size", "6")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("folder") / "my-model"))


def test_the_same_generation_as_json_page_and_picture(model: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("t.json", "t.html", "t.gif"):
        assert main(["generate", "--model", model, *SHORT, "--trace", file, "ab", "--prompt", "c\nd"]) == 0
    told = json.loads(Path("t.json").read_text("utf-8"))
    assert told["schema"] == "unmask-trace/1" and told["model"] == "my-model"
    assert [row["prompt"] for row in told["rows"]] == ["ab", "c\nd"]
    assert told["options"]["steps"] == 3 and told["options"]["strategy"] == "confidence"
    assert all(sum(len(commit["positions"]) for commit in row["commits"]) == 6 for row in told["rows"])
    text = Path("t.html").read_text("utf-8")
    page = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert page["rows"] == told["rows"]
    from PIL import Image

    with Image.open("t.gif") as picture:
        assert picture.n_frames == 4  # before the first step, and after each


def test_a_picture_without_pillow_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(trace_files, "find_spec", lambda name: None if name == "PIL" else found(name))
    with pytest.raises(ResourceError, match=r"pip install 'unmask\[gif\]'.*t\.html"):
        trace_files.check(str(tmp_path / "t.gif"))


def test_a_trace_page_is_no_report(tmp_path: Path, model: str) -> None:
    assert main(["infill", "--model", model, "a[MASK]", "--trace", str(tmp_path / "t.html")]) == 0
    assert read_report(tmp_path / "t.html") == {}
