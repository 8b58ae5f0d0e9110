"""What only a CUDA device can show. `make test-gpu` runs these; elsewhere they are skipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import unmask
from tests import tiny
from unmask.diffusion.blocks import allowed, block_ids, two_stream
from unmask.models.attention import attend, prepare_attention
from unmask.models.checkpoints import load_model
from unmask.training.arguments import Settings
from unmask.training.run import train
from unmask.types import AttentionSpec

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


# packed rows of more than a tile, so that they go through flex_attention
PACKED = {"packing": True, "padding": "none", "max_length": 200}


@pytest.mark.parametrize("more", [{}, {"lora": True, "r": 4}, PACKED])
def test_training_in_bf16_learns_and_resumes(settings: Callable[..., Settings], tmp_path: Path, more: dict) -> None:
    steady = {"save_strategy": "steps", "save_steps": 10, "logging_steps": 5, "bf16": True, **more}
    train(settings(max_steps=10, **steady), verb="sft")
    run = train(settings(max_steps=30, **steady), verb="sft")
    assert run.history[-1]["nll"] < run.history[0]["nll"]
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 30


def two_streams(length: int) -> AttentionSpec:
    return two_stream(block_ids(torch.arange(length, device="cuda")[None], 4))


def packed_documents(length: int, kind: Any = "bidirectional") -> AttentionSpec:
    ends = torch.tensor([[40, 55, length - 9, length], [length // 2, length, length, length]], device="cuda")
    document_BL = (torch.arange(length, device="cuda") >= ends[:, :, None]).sum(1)
    return AttentionSpec(kind, document_BL=document_BL)


# heads of 8 are widened to 16, for which there are kernels
@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("make", [two_streams, packed_documents, partial(packed_documents, kind="causal")])
def test_flex_attention_equals_a_dense_mask(make: Callable[[int], AttentionSpec], width: int) -> None:
    device = torch.device("cuda")
    for short in (200, 331):
        spec = make(short)
        length = 2 * short if spec.kind == "two_stream" else short
        how = prepare_attention(spec, start=0, queries=length, keys=length, device=device)
        assert how.blocks is not None and how.mask is None
        q, k, v = (torch.randn(2, n, length, width, device=device, requires_grad=True) for n in (4, 2, 2))
        wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed(spec, 2, length)[:, None], enable_gqa=True)
        found = attend(q, k, v, how)
        torch.testing.assert_close(found, wanted, atol=5e-3, rtol=5e-3)
        weight = torch.randn_like(wanted)
        for one, other in zip(
            torch.autograd.grad((found * weight).sum(), (q, k, v)),
            torch.autograd.grad((wanted * weight).sum(), (q, k, v)),
            strict=True,
        ):
            torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("width", [32, 64])  # four heads of 8, or of 16
def test_blocks_are_learned_on_the_device(settings: Callable[..., Settings], tmp_path: Path, width: int) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", d_model=width)
    chosen = {"model_name_or_path": str(folder)}
    chosen |= {"objective": "block", "block_size": 4, "max_length": 200, "padding": "max_length", "bf16": True}
    run = train(settings(max_steps=30, logging_steps=5, **chosen), verb="sft")
    assert run.history[-1]["nll"] < run.history[0]["nll"]
