"""Every family answers every kind of request of an evaluation, and a batch answers as its rows do alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.contract.test_families import with_words
from unmask.evaluation.answering import Answerer, AnswerSettings
from unmask.evaluation.requests import Answers, Request
from unmask.lm import DiffusionLM, load
from unmask.registry import FAMILIES

SETTINGS = AnswerSettings({"max_new_tokens": 5}, samples=3, batch_size=4)
ASKED = [
    Request("generate", "red", settings={"until": ["\n\n"]}),
    Request("generate", "a much longer one"),
    Request("score", "red", " blue", greedy=True),
    Request("score", "red", " b", greedy=True),
    Request("score", "", "text without a prompt"),
    Request("rolling", "a text that is longer than what the model reads at once"),
]


@pytest.fixture(scope="module", params=FAMILIES.names())
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffusionLM:
    return load(with_words(tmp_path_factory.mktemp("model"), FAMILIES.get(request.param)), device="cpu")


def test_all_kinds_of_requests_are_answered(lm: DiffusionLM) -> None:
    settings = replace(SETTINGS, max_length=24)
    answerer = Answerer(lm, settings, Answers(None))
    found = answerer.answer(ASKED)
    for request in ASKED:
        answer, alone = found[answerer.key(request)], Answerer(lm, replace(settings, batch_size=1), Answers(None))
        (own,) = alone.answer([request]).values()
        if request.kind == "generate":
            assert answer == own
        else:
            first, second = ([value] if isinstance(value, float) else value for value in (answer, own))
            assert first[0] == pytest.approx(second[0], rel=1e-4) and first[0] < 0 and first[1:] == second[1:]


def test_greedy_says_yes_to_what_is_decoded(lm: DiffusionLM) -> None:
    prompt = lm.encode("red")
    size = lm.model.facts.block_size or 3
    written = lm.generate([prompt], max_new_tokens=3, steps=3, block_size=size, early_stop=False)[0].token_ids
    other = [*written[:-1], written[-1] % 200 + 7]
    answerer = Answerer(lm, SETTINGS, Answers(None))
    assert list(answerer._greedy([(prompt, written), (prompt, other)])) == [True, False]


def test_a_likelihood_of_one_token_is_that_of_the_models_own_prediction(lm: DiffusionLM) -> None:
    """Of one token there is one mask: every kind of estimate is exact."""
    ids = lm.encode("red?")
    tokens = ids[:-1] if lm.family.mask_token is None else [*ids[:-1], lm.model.facts.mask_token_id]
    with torch.no_grad():
        row = lm.model(input_ids=torch.tensor([tokens])).logits[0, -1].float()
    answerer = Answerer(lm, SETTINGS, Answers(None))
    (answer,) = answerer.answer([Request("score", "red", "?")]).values()
    assert answer[0] == pytest.approx(float(row.log_softmax(-1)[ids[-1]]), rel=1e-4)
