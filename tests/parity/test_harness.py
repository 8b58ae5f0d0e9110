"""An autoregressive checkpoint gets from the harness' own model class what it gets from ours."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.contract.test_families import with_words
from unmask.lm import load
from unmask.registry import FAMILIES

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

from unmask.evaluation.answering import Answerer, AnswerSettings
from unmask.evaluation.lm_eval import HarnessLM
from unmask.evaluation.requests import Answers

PAIRS = [("red", " blue"), ("red ", "blue"), ("", "alone"), ("a longer prompt: ", "x"), ("red", " b")]
TEXTS = ["a whole text", "one\ntwo"]
PROMPTS = [("red", {"until": ["q"], "max_gen_toks": 12}), ("a longer prompt", {"until": ["\n\n"], "max_gen_toks": 12})]


def entries(arguments: list[tuple[Any, ...]]) -> list[Any]:
    return [SimpleNamespace(args=one, doc={}, task_name="any", arguments=one) for one in arguments]


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_ours_and_theirs_agree(name: str, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    folder = with_words(tmp_path, FAMILIES.get(name))
    theirs: Any = HFLM(pretrained=str(folder), device="cpu", batch_size=2, dtype="float32")
    lm = load(folder, device="cpu", dtype="float32")
    answerer = Answerer(lm, AnswerSettings(batch_size=2), Answers(None))

    def ask(requests: Any) -> list[Any]:
        found = answerer.answer(requests)
        return [found[answerer.key(request)] for request in requests]

    ours = HarnessLM(lm, ask, greedy=frozenset({"any"}))
    first, second = (model.loglikelihood(entries(PAIRS), disable_tqdm=True) for model in (theirs, ours))
    assert [value for value, _ in second] == pytest.approx([value for value, _ in first], rel=1e-4)
    assert [is_greedy for _, is_greedy in second] == [is_greedy for _, is_greedy in first]
    rolled = [model.loglikelihood_rolling(entries([(text,) for text in TEXTS])) for model in (theirs, ours)]
    assert rolled[1] == pytest.approx(rolled[0], rel=1e-4)
    written = [model.generate_until(entries(PROMPTS), disable_tqdm=True) for model in (theirs, ours)]
    assert written[1] == written[0] and all(written[0])
    greedy = [(prompt, text[:2]) for (prompt, _), text in zip(PROMPTS, written[0], strict=True)]
    assert [yes for _, yes in ours.loglikelihood(entries(greedy))] == [
        yes for _, yes in theirs.loglikelihood(entries(greedy), disable_tqdm=True)
    ]
