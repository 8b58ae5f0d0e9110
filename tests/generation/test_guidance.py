from __future__ import annotations

import torch

from tests.generation.toys import Contextual
from unmask.generation.canvas import continuation
from unmask.generation.guidance import hidden_BL, mix
from unmask.generation.loop import generate
from unmask.generation.options import GenerationOptions

MASK = 15


def test_the_unconditional_half_sees_no_prompt_except_what_is_kept() -> None:
    canvas = continuation([[1, 2, 3], [2]], 2, MASK, "cpu")
    hidden = canvas.tokens_BL.masked_fill(hidden_BL(canvas, keep=(2,)), MASK)
    assert hidden[0].tolist() == [MASK, 2, MASK, MASK, MASK]
    assert hidden[1, :3].tolist() == [2, MASK, MASK]


def test_the_mix_moves_away_from_the_unconditional_prediction() -> None:
    conditional, unconditional = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    both = torch.cat([conditional, unconditional])
    assert torch.equal(mix(both, 0.0), conditional)
    assert torch.equal(mix(both, 1.0), torch.tensor([[2.0, -1.0]]))
    assert mix(both.bfloat16(), 1.0).dtype == torch.float32


def test_guidance_towards_nothing_changes_nothing() -> None:
    options = {"max_new_tokens": 6, "block_size": 3, "steps": 4, "early_stop": False}
    plain = generate(Contextual(), [[1, 2], [3]], options=GenerationOptions.of(**options), mask_token_id=MASK)
    # With every prompt token kept both halves see the same, so any scale gives the same.
    kept = GenerationOptions.of(**options, guidance_scale=3.0, guidance_keep=(1, 2, 3))
    guided = generate(Contextual(), [[1, 2], [3]], options=kept, mask_token_id=MASK)
    assert [done.token_ids for done in guided] == [done.token_ids for done in plain]
    assert [done.stats.positions for done in guided] == [2 * done.stats.positions for done in plain]
    assert [done.stats.forwards for done in guided] == [done.stats.forwards for done in plain]


def test_guidance_matters() -> None:
    options = {"max_new_tokens": 12, "steps": 12, "early_stop": False}
    outs = [
        generate(
            Contextual(), [[1, 2, 3]], options=GenerationOptions.of(**options, guidance_scale=w), mask_token_id=MASK
        )
        for w in (0.0, 4.0)
    ]
    assert outs[0][0].token_ids != outs[1][0].token_ids
