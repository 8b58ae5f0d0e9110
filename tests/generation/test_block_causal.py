"""Block-causal decoding: blocks lie on a grid, see nothing behind them, and what is behind is not even fed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.generation.toys import Contextual
from tests.models.tiny import build
from unmask.diffusion.blocks import allowed
from unmask.generation.loop import generate, infill
from unmask.generation.options import GenerationOptions
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES

MASK = 15
PROMPTS = [[1, 2, 3, 4, 5], [6, 7]]


def options(**changes: Any) -> GenerationOptions:
    given = {"max_new_tokens": 6, "block_size": 4, "steps_per_block": 4, "attention": "block_causal", **changes}
    return GenerationOptions(**given)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]])
def test_a_query_sees_its_own_block_and_those_before_it(prompts: list[list[int]]):
    denoiser = Contextual()
    generate(denoiser, prompts, options=options(), mask_token_id=MASK)
    spec, (rows, length) = denoiser.attention[0], denoiser.shapes[0]
    found_BQK = allowed(spec, rows, length)
    for row, end in enumerate(len(prompt) + 6 for prompt in prompts):
        for query in range(min(end, length)):
            assert found_BQK[row, query].tolist() == [key // 4 <= query // 4 and key < end for key in range(length)]


def test_nothing_is_hidden_where_all_is_one_block():
    denoiser = Contextual()
    generate(denoiser, PROMPTS[:1], options=options(block_size=16), mask_token_id=MASK)
    generate(denoiser, PROMPTS[:1], options=options(attention="bidirectional"), mask_token_id=MASK)
    assert set(denoiser.attention) == {None}


def test_blocks_begin_at_multiples_of_their_size_and_later_ones_are_not_fed():
    denoiser = Contextual()
    (done,) = generate(denoiser, PROMPTS[:1], options=options(), mask_token_id=MASK)
    # the prompt of five reaches one token into the second block, of whose three masks each takes a step
    assert [shape[1] for shape in denoiser.shapes] == [8, 8, 8, 11, 11, 11]
    assert done.stats.positions == sum(shape[1] for shape in denoiser.shapes)
    assert all(spec.kind == "block_causal" for spec in denoiser.attention)
    assert denoiser.attention[0].document_BL is None and denoiser.attention[0].block_BL.shape == (1, 8)
    assert len(done.token_ids) == 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return build(tmp_path_factory.mktemp("model"), FAMILIES.get("llada2"))


def test_what_is_asked_for_behind_changes_nothing_before(model):
    long, short = (
        generate(model, PROMPTS[:1], options=options(max_new_tokens=new), mask_token_id=63)[0].token_ids
        for new in (15, 7)
    )
    assert len(long) == 15 and long[:7] == short
    everybody = generate(model, PROMPTS[:1], options=options(attention="bidirectional"), mask_token_id=63)[0]
    assert everybody.token_ids != long[:6]


def test_a_row_in_a_batch_equals_the_row_alone(model):
    together = generate(model, PROMPTS, options=options(), mask_token_id=63)
    for prompt, done in zip(PROMPTS, together, strict=True):
        assert generate(model, [prompt], options=options(), mask_token_id=63)[0].token_ids == done.token_ids


def test_guidance_hides_later_blocks_too(model):
    guided = options(guidance_scale=0.5)
    together = generate(model, PROMPTS, options=guided, mask_token_id=63)
    assert generate(model, PROMPTS[1:], options=guided, mask_token_id=63)[0].token_ids == together[1].token_ids


@pytest.mark.parametrize(("block_size", "sees"), [(4, False), (None, True)])
def test_filling_in_sees_what_follows_unless_blocks_are_asked_for(block_size: int | None, sees: bool):
    denoiser = Contextual()
    infill(denoiser, [[1, MASK, 3, 4, 5, 6]], options=options(block_size=block_size), mask_token_id=MASK)
    assert [shape[1] for shape in denoiser.shapes] == [6 if sees else 4]
    assert denoiser.attention == [None]
