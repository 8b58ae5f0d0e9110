"""Verdicts of many pairs at once are those of writing each text out, one forward after the other."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.test_likelihoods import SIZE, tiny
from unmask.models.shell import DiffusionModel
from unmask.objectives.greedy import GreedyWriting, are_greedy_causal

MASK = SIZE - 1
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], []]


@torch.no_grad()
def written(model: DiffusionModel, prompt: list[int], length: int, scale: float) -> list[int]:
    """The surest token first, by logits of whole rows."""
    ids = [*prompt, *[MASK] * length]
    while MASK in ids:
        given, bare = (
            model(torch.tensor([row])).logits[0, :, :MASK]
            for row in (ids, [*[MASK] * len(prompt), *ids[len(prompt) :]])
        )
        probability = (bare + (scale + 1) * (given - bare)).softmax(-1)
        place = max((i for i, token in enumerate(ids) if token == MASK), key=lambda i: float(probability[i].max()))
        ids[place] = int(probability[place].argmax())
    return ids[len(prompt) :]


@pytest.mark.parametrize("scale", [0.0, 1.2])
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_a_target_is_greedy_where_it_is_what_is_written(name: str, scale: float):
    model = tiny(name, **({"embedding_size": SIZE} if name == "llada" else {}))
    pairs: list[tuple[list[int], list[int]]] = []
    for number, prompt in enumerate(PROMPTS if name == "llada" else PROMPTS[:3]):
        # masks alone are all alike: which of several is the surest would be a matter of rounding
        right = written(model, prompt, 2 + number if prompt else 1, scale)
        pairs.append((prompt, right))
        pairs += [(prompt, [*right[:i], (right[i] + 1) % MASK, *right[i + 1 :]]) for i in range(len(right))]
    expected = [target == written(model, prompt, len(target), scale) for prompt, target in pairs]
    assert sum(expected) == (4 if name == "llada" else 3)
    for batch_size in (1, 3, 64):
        found = dict(GreedyWriting(MASK, batch_size, scale).many(model, pairs))
        assert [found[index] for index in range(len(pairs))] == expected


def test_an_empty_target_is_what_is_written():
    assert list(GreedyWriting(MASK).many(tiny("qwen2"), [([1], [])])) == [(0, True)]


def test_a_wrong_target_ends_at_its_first_wrong_token(monkeypatch: pytest.MonkeyPatch):
    model, fed = tiny("llada", embedding_size=SIZE), list[int]()
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, **asked: fed.append(len(ids)) or forward(ids, **asked))
    right = written(model, [1, 2, 3], 4, 0.0)
    fed.clear()
    wrong = [(token + 1) % MASK for token in right]
    verdicts = dict(
        GreedyWriting(MASK, batch_size=2).many(model, [([1, 2, 3], each) for each in (right, wrong, wrong)])
    )
    assert verdicts == {0: True, 1: False, 2: False}
    # each wrong one takes a place for one forward, the right one for four
    assert fed == [2, 2, 1, 1]


def test_an_autoregressive_network_writes_from_left_to_right():
    model = tiny("qwen2")
    pairs = list[tuple[list[int], list[int]]]()
    for number, prompt in enumerate(PROMPTS[:3]):
        ids = list(prompt)
        for _ in range(3 + number):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        right = ids[len(prompt) :]
        pairs += [(prompt, right), (prompt, [*right[:-1], (right[-1] + 1) % SIZE]), (prompt, right[:1]), (prompt, [])]
    found = dict(are_greedy_causal(model, pairs, batch_size=4))
    assert [found[index] for index in range(len(pairs))] == [True, False, True, True] * 3
