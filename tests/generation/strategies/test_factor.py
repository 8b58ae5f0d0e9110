"""The number of tokens committed together: worked examples, the theorem on enumerated joints, Fast-dLLM's own runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.generation.scenes import decide, of_confidence, places, scene, with_mask
from tests.generation.sources import among, marginals, markov
from unmask.generation.loop import stream
from unmask.generation.options import GenerationOptions
from unmask.models.checkpoints import load_model


@pytest.mark.parametrize(
    ("confidence", "written"),
    [
        ([0.9, 0.1], [0]),
        ([0.1, 0.9], [1]),
        ([0.99, 0.98, 0.10], [0, 1]),
        ([0.6, 0.6], [0]),
        ([0.7, 0.7], [0, 1]),
        ([0.3, 0.2, 0.3], [0]),
        ([0.1], [0]),
    ],
)
def test_worked_examples(confidence: list[float], written: list[int]) -> None:
    assert places(decide("factor", scene(of_confidence([confidence]))).write_BL) == [written]


def single_flips(generator: torch.Generator, length: int) -> Tensor:
    """The hardest case: all zeros, or all zeros but one; each variable is surer than the joint mode is."""
    weight = torch.rand(length + 1, generator=generator, dtype=torch.float64) ** 2
    joint = torch.zeros((2,) * length, dtype=torch.float64)
    joint[(0,) * length] = weight[0]
    for axis in range(length):
        joint[tuple(int(axis == other) for other in range(length))] = weight[axis + 1]
    return joint / weight.sum()


@pytest.mark.parametrize("source", ["markov", "flips"])
def test_tokens_committed_together_are_the_joint_mode(source: str) -> None:
    generator = torch.Generator().manual_seed(1)
    several = 0
    for _ in range(120):
        joint = markov(generator, 4, 3, 4.0) if source == "markov" else single_flips(generator, 4)
        margin = marginals(joint)
        written = places(decide("factor", scene(with_mask(margin[None]))).write_BL)[0]
        several += len(written) > 1
        together = among(joint, written)
        mode = torch.unravel_index(together.argmax(), together.shape)
        assert [int(token) for token in mode] == margin[written].argmax(-1).tolist()
    assert several > 20


def test_a_larger_factor_accepts_what_breaks_the_theorem() -> None:
    # Three variables, each zero with probability 2/3, jointly never all zero.
    joint = torch.zeros(2, 2, 2, dtype=torch.float64)
    joint[0, 0, 1] = joint[0, 1, 0] = joint[1, 0, 0] = 1 / 3
    shown = scene(with_mask(marginals(joint)[None]))
    assert places(decide("factor", shown, factor=1.01).write_BL) == [[0, 1]]
    assert places(decide("factor", shown, factor=1.5).write_BL) == [[0, 1, 2]]
    assert places(decide("factor", shown, factor=0.9).write_BL) == [[0]]


def test_the_tokens_are_those_of_fast_dllm_in_dllm(shared: Path) -> None:
    model = load_model(shared / "golden/llada")
    compared = 0
    for entry in json.loads((shared / "golden/llada/fastdllm_llada_sampler.json").read_text()):
        settings = entry["settings"]
        # A cache is not the strategy's business; rows of unequal length see their padding there.
        is_plain = not settings["use_cache"] and "error" not in entry and len(set(map(len, entry["inputs"]))) == 1
        if "factor" not in settings or not is_plain:
            continue
        words = {name: settings[name] for name in ("max_new_tokens", "steps", "block_size", "factor")}
        options = GenerationOptions(**words, strategy="factor", early_stop=False)
        run = stream(model, entry["inputs"], options=options, mask_token_id=511)
        forwards = max(done.stats.forwards.denoise for done in run.run())
        assert run.canvas.tokens_BL.tolist() == entry["output"]
        assert forwards <= entry["n_forwards"]
        compared += 1
    assert compared >= 5
