"""A result as JSON, Markdown and a page: the same figures in each, and nothing from elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import unmask
from tests import tiny
from unmask.errors import DataError
from unmask.evaluation import report
from unmask.evaluation.report import Curve, Metric, Result

RESULT = Result(
    task="likelihood",
    version=1,
    data="a <b> & c.txt",
    metrics={"nll": Metric(1.23456, 0.02, 7, "nats per token"), "accuracy": Metric(0.5, None, 7)},
    model=None,
    settings={"samples": 4},
    seed=3,
    seconds=1.5,
    curves=(Curve("By noise", "share masked", "nats", ((0.0, 0.5, 2.0), (0.5, 1.0, 1.0))),),
    notes=("A note.",),
)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.bars: list[float] = []
        self.links: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "rect":
            self.bars.append(float(said["height"] or 0))


def test_the_document_says_who_and_where(tmp_path: Path) -> None:
    found = report.document(RESULT)
    assert found["schema"] == "unmask-evaluation/1" and found["unmask"] == unmask.__version__
    assert {"task", "version", "model", "recipe", "settings", "seed", "commit", "machine"} <= set(found)
    report.write(tmp_path, found)
    assert report.read(tmp_path) == report.read(tmp_path / "results.json") == json.loads(json.dumps(found))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["results.html", "results.json", "results.md"]


def test_the_pages_hold_the_figures() -> None:
    found = report.document(RESULT)
    text = report.page(found)
    assert "| nll | 1.2346 nats per token | 0.02 | 7 |" in text and "| accuracy | 0.5000 |  | 7 |" in text
    assert "| 0 to 0.5 | 2.0000 |" in text and "A note." in text
    page = Page()
    page.feed(report.web_page(found))
    assert {"1.2346 nats per token", "By noise", "likelihood: a <b> & c.txt", "A note."} <= set(page.texts)
    assert page.bars[0] == pytest.approx(2 * page.bars[1]) and page.links == []


def test_a_figure_that_is_no_number_is_null(tmp_path: Path) -> None:
    """JSON has no NaN: a strict reader would refuse the whole file."""
    nan, inf = float("nan"), float("inf")
    metrics = {"nll": Metric(0.5, nan, 1, "nats per token"), "perplexity": Metric(inf, nan, 1, "share", nan, inf)}
    curve = Curve("By noise", "share masked", "nats", ((0.0, 0.5, nan), (0.5, 1.0, 1.0)))
    strange = replace(RESULT, metrics=metrics, curves=(curve,), breakdown={"kind": {"a": {"em": Metric(nan)}}})
    report.write(tmp_path, report.document(strange))

    def refuse(word: str) -> None:
        raise AssertionError(word)

    text = (tmp_path / "results.json").read_text("utf-8")
    found = json.loads(text, parse_constant=refuse)
    assert found == report.read(tmp_path)
    assert found["metrics"]["nll"]["stderr"] is None and found["metrics"]["perplexity"]["mean"] is None
    page = (tmp_path / "results.md").read_text("utf-8")
    assert "| nll | 0.5000 nats per token |" in page and "| perplexity | not finite |" in page
    assert "nan" not in page and "inf" not in page.replace("not finite", "")


def test_the_model_is_known_by_its_weights(tmp_path: Path) -> None:
    lm = unmask.load(tiny.write_checkpoint(tmp_path), device="cpu")
    facts = report.model_facts(lm, "mine")
    assert (facts["name"], facts["family"], facts["attention"]) == ("mine", "llada", "bidirectional")
    with torch.no_grad():
        next(lm.model.parameters())[0, 0] += 1
    assert report.model_facts(lm, "mine")["fingerprint"] != facts["fingerprint"]


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read .*results.json"):
        report.read(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(DataError, match="holds no results"):
        report.read(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        report.read(tmp_path)
