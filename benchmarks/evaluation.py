"""The spread of an evaluation's bound at equal forwards: the noise of `eval_nll` against tokens masked by chance at
independent times, with which most training scripts evaluate.

A model, some rows, the same number of noised copies for each estimator, again and again under other seeds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

import unmask
from unmask.objectives.bound_error import bound_error
from unmask.objectives.masked import MaskedDiffusion
from unmask.types import Batch, SampleKeys

ESTIMATORS = {
    "independent times": {"time_sampling": "iid"},
    "spread times": {},
    "exact counts": {"masking": "exact_count"},
    "eval_nll": {},
}


def batch_of(rows_RL: torch.Tensor, samples: int) -> Batch:
    """Each row `samples` times, as evaluation visits it."""
    x0_BL = rows_RL.repeat_interleave(samples, 0)
    number_S = torch.arange(len(x0_BL))
    keys = SampleKeys(number_S, number_S // samples, number_S % samples)
    return Batch(x0_BL, torch.ones_like(x0_BL, dtype=torch.bool), number_S[:, None].expand_as(x0_BL), keys)


@torch.no_grad()
def estimates(
    model: torch.nn.Module, batch: Batch, objective: MaskedDiffusion, seeds: int
) -> tuple[list[float], float | None]:
    """Nats per token under each seed, and the mean of the errors that are claimed, where any are."""
    means, claimed = [], []
    for seed in range(seeds):
        drawn = replace(objective, seed=seed)
        noise = drawn.noise(batch)
        sums = drawn(model, batch, noise)
        assert sums.nll_S is not None
        means.append(float(sums.nll_S.double().sum()) / batch.x0_BL.numel())
        if sums.evidence_SE is not None:
            claimed.append(bound_error(batch.keys.row_S, sums.evidence_SE))
    return means, sum(claimed) / seeds if claimed else None


def interval(first: torch.Tensor, second: torch.Tensor, resamples: int = 2000) -> list[float]:
    """Between what and what the ratio of variances lies, in 95 of 100 resamples of the seeds (bootstrap)."""
    generator = torch.Generator().manual_seed(0)
    spreads = [
        values[torch.randint(len(values), (resamples, len(values)), generator=generator)].var(1)
        for values in (first, second)
    ]
    ratio = spreads[0] / spreads[1]
    return [round(float(ratio.quantile(share)), 1) for share in (0.025, 0.975)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="example:base")
    parser.add_argument("--text", type=Path, help="a text file; default: this repository's README and pages")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=256)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lm = unmask.load(asked.model, device="cpu", dtype="float32")
    root = Path(__file__).resolve().parents[1]
    files = [asked.text] if asked.text else [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    ids = lm.tokenizer("\n".join(file.read_text(encoding="utf-8") for file in files), add_special_tokens=False)
    rows_RL = torch.tensor(ids["input_ids"][: asked.rows * asked.length]).view(asked.rows, asked.length)
    batch, drawn = batch_of(rows_RL, asked.samples), dict[str, torch.Tensor]()
    for name, how in ESTIMATORS.items():
        copies = asked.samples if name == "eval_nll" else 0
        objective = MaskedDiffusion(lm.model.mask_token_id, copies=copies, **how)
        means, claimed = estimates(lm.model.eval(), batch, objective, asked.seeds)
        drawn[name] = torch.tensor(means, dtype=torch.float64)
        told = {
            "estimator": name,
            "mean": float(drawn[name].mean()),
            "error": float(drawn[name].std()),
            "claimed": claimed,
        }
        first = drawn["independent times"]
        ratio = {"variance": float(first.var() / drawn[name].var()), "interval": interval(first, drawn[name])}
        print(json.dumps({**told, **ratio}), flush=True)


if __name__ == "__main__":
    main()
