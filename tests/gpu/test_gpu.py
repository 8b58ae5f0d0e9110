"""What only a CUDA device can show. `make test-gpu` runs these; elsewhere they are skipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import unmask
from unmask.models.checkpoints import load_model
from unmask.training.arguments import Settings
from unmask.training.run import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize(
    ("logits", "ids", "mask"),
    [("nomask", "ids", None), ("right", "ids_right", "mask_right"), ("left", "ids_left", "mask_left")],
)
def test_logits_equal_the_golden_ones(shared: Path, logits: str, ids: str, mask: str | None) -> None:
    golden = shared / "golden" / "llada"
    given, wanted = load_file(golden / "inputs.safetensors"), load_file(golden / "logits.safetensors")
    model = load_model(golden, dtype="float32", device="cuda")
    attention_mask = given[mask].cuda() if mask else None
    with torch.no_grad():
        got = model(given[ids].cuda(), attention_mask=attention_mask).logits.cpu()
    torch.testing.assert_close(got, wanted[f"logits_{logits}"], atol=2e-3, rtol=1e-4)


def test_greedy_tokens_equal_those_of_the_processor(checkpoint: Path) -> None:
    prompts, options = ["red blue", "a longer prompt than that"], {"max_new_tokens": 24, "steps": 24, "block_size": 8}
    there = unmask.load(str(checkpoint), device="cuda", dtype="float32").generate(prompts, **options)
    here = unmask.load(str(checkpoint), device="cpu", dtype="float32").generate(prompts, **options)
    assert [result.token_ids for result in there] == [result.token_ids for result in here]


@pytest.mark.parametrize("more", [{}, {"lora": True, "r": 4}, {"packing": True, "padding": "none"}])
def test_training_in_bf16_learns_and_resumes(settings: Callable[..., Settings], tmp_path: Path, more: dict) -> None:
    steady = {"save_strategy": "steps", "save_steps": 10, "logging_steps": 5, "bf16": True, **more}
    train(settings(max_steps=10, **steady), verb="sft")
    run = train(settings(max_steps=30, **steady), verb="sft")
    assert run.history[-1]["nll"] < run.history[0]["nll"]
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 30


def test_two_streams_through_flex_attention_equal_a_dense_mask() -> None:
    from torch.nn import functional as F

    from unmask.diffusion.blocks import allowed, block_ids, two_stream
    from unmask.models.attention import attend, prepare_attention

    for length in (200, 331):
        spec = two_stream(block_ids(torch.arange(length, device="cuda")[None], 4))
        device = torch.device("cuda")
        how = prepare_attention(spec, start=0, queries=2 * length, keys=2 * length, device=device)
        assert how.blocks is not None and how.mask is None
        q, k, v = (torch.randn(2, n, 2 * length, 32, device=device, requires_grad=True) for n in (4, 2, 2))
        wanted = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed(spec, 1, 2 * length)[:, None], enable_gqa=True
        )
        found = attend(q, k, v, how)
        torch.testing.assert_close(found, wanted, atol=5e-3, rtol=5e-3)
        weight = torch.randn_like(wanted)
        for one, other in zip(
            torch.autograd.grad((found * weight).sum(), (q, k, v)),
            torch.autograd.grad((wanted * weight).sum(), (q, k, v)),
            strict=True,
        ):
            torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)


def test_blocks_are_learned_on_the_device(settings: Callable[..., Settings]) -> None:
    chosen = {"objective": "block", "block_size": 4, "max_length": 200, "padding": "max_length", "bf16": True}
    run = train(settings(max_steps=30, logging_steps=5, **chosen), verb="sft")
    assert run.history[-1]["nll"] < run.history[0]["nll"]
