"""Which log-likelihoods a task compares, told by its own verdicts, and what settles early of a real one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import unmask
from tests import tiny
from unmask.errors import ConfigError
from unmask.evaluation.answering import Answerer, AnswerSettings
from unmask.evaluation.requests import Answers, Request, numbered
from unmask.lm.scoring import refuse_settling

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

from unmask.evaluation.harness_choices import comparisons, told_apart
from unmask.evaluation.harness_tasks import find_tasks, load_tasks

ROW = {"query": "Question: Which?", "choices": ["été", "a longer one", "no"], "gold": 1}


@pytest.fixture(scope="module")
def arc(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("data")
    (folder / "mc").mkdir()
    (folder / "mc/arc_easy.jsonl").write_text(json.dumps(ROW) + "\n")
    return load_tasks(find_tasks(["arc_easy"]), folder).by_name["arc_easy"]


@pytest.mark.parametrize("metrics", [["acc"], ["acc", "acc_norm"], ["acc_norm", "acc_bytes"], ["f1", "exact_match"]])
def test_what_is_compared_decides_the_tasks_verdict(
    arc: Any, metrics: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness' own scores say which choice it took: the best after dividing by what we say it divides by."""
    monkeypatch.setattr(arc, "_metric_fn_list", dict.fromkeys(metrics))
    (doc,) = arc.test_docs()
    made = comparisons(arc, doc)
    assert made is not None
    for nats in ([-6.0, -5.0, -4.0], [-6.0, -11.0, -6.5], [-3.2, -9.0, -2.9], [-9.0, -36.0, -5.5], [-4.0, -4.5, -4.0]):
        found = arc.process_results(doc, [(value, False) for value in nats])
        best = [max(range(3), key=lambda i, sizes=sizes: nats[i] / sizes[i]) for sizes in made]
        right = [float(place == 1) for place in best]
        assert [found[name] for name in metrics if name.startswith("acc")] == [
            right[min(number, len(right) - 1)] for number, name in enumerate(metrics) if name.startswith("acc")
        ]


def test_tasks_that_make_more_of_likelihoods_are_left_alone(arc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (doc,) = arc.test_docs()
    entries = [SimpleNamespace(task_name="arc_easy", doc_id=3, idx=i, args=("q", f" {i}"), doc=doc) for i in range(3)]
    told = told_apart([entries[2], entries[0], entries[1], entries[0]], {"arc_easy": arc})
    assert [one["choice"] for one in told] == [2, 0, 1, 0] and len({one["question"] for one in told}) == 1
    assert told[0]["sizes"] == [1.0, 2.0] and told[1] == told[3]
    other = [SimpleNamespace(**{**vars(entry), "args": ("p", entry.args[1])}) for entry in entries]
    assert told_apart(other, {"arc_easy": arc})[0]["question"] != told[0]["question"]
    # with log-likelihoods of other texts beside those of the choices
    assert told_apart([*entries, SimpleNamespace(**{**vars(entries[0]), "idx": 3})], {"arc_easy": arc}) == [{}] * 4
    for changes in ({"_metric_fn_list": {"acc": None, "brier_score": None}}, {"OUTPUT_TYPE": "loglikelihood"}):
        with monkeypatch.context() as patched:
            for name, value in changes.items():
                patched.setattr(arc, name, value)
            assert told_apart(entries, {"arc_easy": arc}) == [{}] * 3


def question(number: int, targets: list[str]) -> list[Request]:
    sizes = [[1.0, float(len(target))] for target in targets]
    settings = [{"question": f"q{number}", "choice": i, "sizes": own} for i, own in enumerate(sizes)]
    return [Request("score", "p" * number, target, own) for target, own in zip(targets, settings, strict=True)]


def test_settled_answers_depend_on_their_question_alone(tmp_path: Path) -> None:
    lm = unmask.load(tiny.write_checkpoint(tmp_path), device="cpu")
    asked = [
        *question(3, ["thirteen", "fourteen", "elevens"]),
        *question(9, ["aaaaaaaa", "bbbbbbbb"]),
        Request("score", "x", "y"),
    ]
    asked = numbered([*asked, *question(3, ["thirteen", "fourteen", "elevens"])])
    settings = AnswerSettings(samples=64, batch_size=5, settle=1.0)
    answerer = Answerer(lm, settings, Answers(None))
    found = answerer.answer(asked)
    answers = [found[answerer.key(request)] for request in asked]
    copies = [answer[2] for answer in answers if len(answer) > 2]
    assert len(copies) == 8 and 8 in copies and copies == list(answerer.copies.values())
    assert len(set(copies[:3])) == 1 and answers[:3] == [pytest.approx(one, rel=1e-5) for one in answers[6:]]
    alone = Answerer(lm, replace(settings, batch_size=64), Answers(None))
    other = alone.answer(asked[3:5])
    for request, answer in zip(asked[3:5], answers[3:5], strict=True):
        assert other[alone.key(request)] == pytest.approx(answer, rel=1e-5)
    # never settled: what all copies say
    every = Answerer(lm, replace(settings, settle=1e9), Answers(None)).answer(asked)
    plain = [replace(request, settings={}) for request in asked]
    whole = Answerer(lm, replace(settings, settle=None), Answers(None)).answer(plain)
    assert [one[0] for one in every.values()] == pytest.approx([one[0] for one in whole.values()], rel=1e-5)


def test_models_that_need_no_copies_or_copy_blocks_are_refused(tmp_path: Path) -> None:
    lm = unmask.load(tiny.write_checkpoint(tmp_path, attention="block_causal", block_size=4), device="cpu")
    with pytest.raises(ConfigError, match="settle is for models that see a whole row, .* block by block"):
        Answerer(lm, AnswerSettings(settle=4.0), Answers(None))
    causal: Any = SimpleNamespace(facts=SimpleNamespace(attention="causal"))
    with pytest.raises(ConfigError, match="is autoregressive, and its likelihoods are exact"):
        refuse_settling(causal)
    with pytest.raises(ConfigError, match="settle is -1 standard errors; it must be at least 0"):
        AnswerSettings(settle=-1.0)
