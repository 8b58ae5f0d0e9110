"""Columns that predict tokens: by hand for each pattern, and the same fed at once or piece by piece."""

from __future__ import annotations

import torch

from tests.models.tiny import build, tokens
from unmask.diffusion.blocks import block_ids, two_stream
from unmask.models.shift import predicting_columns
from unmask.registry import FAMILIES
from unmask.types import AttentionSpec


def columns(at: list[int], *, batch: int, length: int, **given: object) -> list[int]:
    """Flat positions of the predicting columns of flat positions into `[batch, length]`."""
    row, column = torch.tensor(at) // length, torch.tensor(at) % length
    return (row * length + predicting_columns(row, column, batch=batch, **given)).tolist()  # type: ignore[arg-type]


def test_each_token_is_predicted_by_the_column_before_it_and_the_first_by_its_own():
    assert columns([0, 1, 2, 3], batch=1, length=4) == [0, 0, 1, 2]
    assert columns([4, 7, 0, 5], batch=2, length=4) == [4, 6, 0, 4]


def test_documents_and_padding_start_anew():
    document_BL = torch.tensor([[0, 0, 1, 1], [-1, -1, 0, 0]])
    found = columns(list(range(8)), batch=2, length=4, attention=AttentionSpec(document_BL=document_BL))
    assert found == [0, 0, 2, 2, 4, 4, 6, 6]
    shared = columns([2, 6], batch=2, length=4, attention=AttentionSpec(document_BL=document_BL[:1]))
    assert shared == [2, 6]


def test_in_two_streams_a_block_starts_from_the_clean_token_before_it():
    """Tokens 0 to 3 in blocks of two: columns 0..3 are noisy, 4..7 clean."""
    spec = two_stream(block_ids(torch.arange(4)[None], 2))
    assert columns(list(range(8)), batch=1, length=8, attention=spec) == [0, 0, 5, 2, 4, 4, 5, 6]


def test_each_state_of_a_block_starts_from_the_column_before_the_block():
    """Columns 0 and 1 are seen by all; a block of two stands at 2, two more states of it at 4 and 6."""
    branches = AttentionSpec("branches", block_BL=torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3]]))
    assert columns(list(range(8)), batch=1, length=8, attention=branches) == [0, 0, 1, 2, 1, 4, 1, 6]
    at_start = AttentionSpec("branches", block_BL=torch.tensor([[0, 1, 1, 2, 2], [1, 1, 0, 2, 2]]))
    assert columns([3, 4, 8, 9], batch=2, length=5, attention=at_start) == [0, 3, 8, 8]


@torch.no_grad()
def test_two_streams_predict_what_decoding_block_after_block_does(tmp_path):
    model, x0_BL, mask = build(tmp_path, FAMILIES.get("dream")), tokens(2, 8), 63
    block_BL = block_ids(torch.arange(8)[None].expand(2, 8), 4)
    noisy_BL = torch.full_like(x0_BL, mask)
    positions_BL = torch.arange(8).repeat(2).expand(2, 16)
    both = model(torch.cat([noisy_BL, x0_BL], 1), attention=two_stream(block_BL), positions=positions_BL).logits
    cache = model.trunk.new_cache(2, 8)
    first = model(noisy_BL[:, :4], cache=cache).logits
    cache.overwrite_from(0)
    model(x0_BL[:, :4], cache=cache)
    second = model(noisy_BL[:, 4:], cache=cache).logits
    torch.testing.assert_close(both[:, :8], torch.cat([first, second], 1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_at_columns_of_their_own_are_predicted_as_in_a_full_forward(tmp_path):
    model, x_BL = build(tmp_path, FAMILIES.get("dream")), tokens(2, 8)
    causal = AttentionSpec("causal")
    full = model(x_BL, attention=causal).logits
    cache = model.new_cache(2, 8)
    model(x_BL[:, :5], attention=causal, cache=cache)
    columns_BW = torch.tensor([[4, 5], [2, 3]])
    cache.place(columns_BW, 6)
    fed = model(x_BL.gather(1, columns_BW), attention=causal, cache=cache, logits_at=torch.tensor([0, 1, 2, 3])).logits
    torch.testing.assert_close(fed, full[[0, 0, 1, 1], [4, 5, 2, 3]], atol=1e-5, rtol=1e-5)
