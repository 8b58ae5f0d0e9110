"""top-k and top-p, against transformers' own processors."""

from __future__ import annotations

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from unmask.generation.filtering import filter_logits

NOTHING = torch.zeros(1, 1, dtype=torch.int64)


def logits(seed: int, rows: int = 40, vocab: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=generator) * torch.linspace(0.1, 6, rows)[:, None]


@pytest.mark.parametrize("top_k", [None, 1, 3, 49, 50, 1000])
@pytest.mark.parametrize("top_p", [None, 1e-6, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_what_is_left_is_what_transformers_leaves(top_k: int | None, top_p: float | None, temperature: float) -> None:
    given_nV = logits(seed=7)
    wanted_nV = TemperatureLogitsWarper(temperature)(NOTHING, given_nV)
    for warper, knob in ((TopKLogitsWarper, top_k), (TopPLogitsWarper, top_p)):
        if knob is not None:
            wanted_nV = warper(knob)(NOTHING, wanted_nV)
    before_nV = given_nV.clone()
    ours_nV = filter_logits(given_nV, top_k, top_p, temperature=temperature)
    assert torch.equal(ours_nV.isinf(), wanted_nV.isinf())
    assert torch.equal(ours_nV[~ours_nV.isinf()], given_nV[~ours_nV.isinf()])
    assert torch.equal(given_nV, before_nV)


def test_the_kept_tokens_hold_the_share_and_one_fewer_would_not() -> None:
    given_nV = logits(seed=1).double()
    for top_p in (0.2, 0.5, 0.95):
        share_nV = given_nV.softmax(-1)
        kept_nV = ~filter_logits(given_nV, top_p=top_p).isinf()
        held_n = (share_nV * kept_nV).sum(-1)
        least_n = share_nV.masked_fill(~kept_nV, 2).min(-1).values
        assert (held_n >= top_p).all() and (held_n - least_n < top_p).all()


def test_a_row_of_equal_logits_keeps_the_earlier_ids_and_a_row_of_one_token_keeps_it() -> None:
    flat = torch.zeros(1, 10)
    assert (~filter_logits(flat, top_p=0.25).isinf())[0].nonzero()[:, 0].tolist() == [0, 1, 2]
    single = torch.full((1, 10), -torch.inf)
    single[0, 4] = 1.0
    assert torch.equal(filter_logits(single, top_k=3, top_p=0.1), single)
