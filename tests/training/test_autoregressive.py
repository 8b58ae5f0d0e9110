"""The baseline under the same trainer: it learns, transformers opens what it saved, and it is never mixed up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

import unmask
from tests import tiny
from unmask.errors import ConfigError
from unmask.models.checkpoints import load_model, save_model
from unmask.registry import FAMILIES
from unmask.training.arguments import Settings
from unmask.training.run import describe, train


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Qwen2 of a few thousand weights and a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("qwen")
    tiny.write_tokenizer(folder)
    size = {"vocab_size": 264, "max_position_embeddings": 256, "eos_token_id": 1}
    config = {**FAMILIES.get("qwen2").tiny_config, **size}
    (folder / "config.json").write_text(json.dumps(config))
    save_model(load_model(folder, from_scratch=True, seed=1), folder)
    return folder


def run(settings: Settings, verb: str = "sft") -> dict[str, float]:
    return train(settings, verb=verb, console=Console(quiet=True)).metrics


def test_it_learns_and_transformers_opens_it(baseline: Path, settings: Callable[..., Settings], tmp_path: Path) -> None:
    chosen = settings(
        model_name_or_path=str(baseline), objective="autoregressive", padding="none", max_steps=40, eval_strategy="no"
    )
    metrics = run(chosen)
    # words of one list, in reversed order: far less than the 5.6 nats of 264 equal ids
    assert metrics["nll"] < 0.6 * math.log(264)
    saved = tmp_path / "run" / "checkpoint-final"
    assert "mask_token_id" not in json.loads((saved / "config.json").read_text())
    card = (saved / "README.md").read_text()
    assert "masked-diffusion" not in card and "AutoModelForCausalLM" in card
    ids = torch.randint(6, 264, (2, 20), generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForCausalLM.from_pretrained(saved).eval()
    with torch.no_grad():
        torch.testing.assert_close(load_model(saved)(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_evaluation_reports_the_exact_likelihood(
    baseline: Path, texts: Path, settings: Callable[..., Settings]
) -> None:
    chosen = settings(
        model_name_or_path=str(baseline),
        objective="autoregressive",
        dataset_args=f"{texts}[test:10]",
        max_length=32,
        eval_strategy="steps",
        eval_steps=2,
        max_steps=2,
        lora=True,
        r=2,
    )
    metrics = run(chosen, "pretrain")
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_nll"])


def test_diffusion_and_autoregression_are_not_mixed_up(baseline: Path, settings: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigError, match="qwen2 model, which is autoregressive.*unmask convert.*--objective autoreg"):
        describe(settings(model_name_or_path=str(baseline)), verb="sft")
    with pytest.raises(ConfigError, match="needs an autoregressive model.* is a llada model"):
        describe(settings(objective="autoregressive"), verb="sft")
    lm = unmask.load(baseline, device="cpu")
    assert lm.generate("a", max_new_tokens=2)[0].stats.forwards.total == 2
    with pytest.raises(ConfigError, match="this model is autoregressive.*unmask convert"):
        lm.infill("a [MASK] c")
    assert lm.log_likelihood("a", "b") < 0


def test_a_dry_run_shows_what_is_learned(baseline: Path, settings: Callable[..., Settings]) -> None:
    plan = describe(settings(model_name_or_path=str(baseline), objective="autoregressive"), verb="sft")
    assert plan.first_batch and "⟦" in plan.first_batch[0]
