"""The settings of a run -> the question that `memory.py` answers."""

from __future__ import annotations

import os

import torch

from unmask.models.facts import Facts
from unmask.training.arguments import Settings
from unmask.training.engine import asked_for
from unmask.training.memory import Estimate, Question, estimate
from unmask.training.trained import trained_of


def question_of(
    settings: Settings, verb: str, facts: Facts, *, bf16: bool | None = None, on_gpu: bool | None = None
) -> Question:
    """What a run asks of one device.

    Args:
        settings, verb: of the run. facts: of its model.
        bf16: mixed precision; None: as the settings say, or else as this machine would. on_gpu: likewise.
    """
    get, chosen, trained = settings.trainer.get, settings.model, trained_of(settings)
    rows, length = _largest(settings)
    if on_gpu is None:
        on_gpu = torch.cuda.is_available() and not get("use_cpu")
    if bf16 is None:
        bf16 = bool(get("bf16", on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)))
    usual = "bfloat16" if trained.adapted and bf16 else "float32"
    return Question(
        facts=facts,
        dtype=getattr(torch, usual if chosen.dtype == "auto" else chosen.dtype),
        trained=trained,
        bits=4 if chosen.load_in_4bit else 8 if chosen.load_in_8bit else None,
        rows=rows,
        length=length,
        hidden=verb == "sft" and settings.data.padding == "none" and not settings.data.packing,
        bf16=bf16,
        on_gpu=on_gpu,
        recompute=settings.run.checkpointing_strategy if get("gradient_checkpointing") else None,
        optim=str(get("optim") or "adamw_torch_fused"),
        accumulation=get("gradient_accumulation_steps", 1),
        eager=chosen.attn_implementation == "eager",
        **_copies(settings),
    )


def _largest(settings: Settings) -> tuple[int, int]:
    """Rows and length of the forward that takes most: of those that a budget of tokens allows, one of long rows."""
    length, budget = settings.data.max_length, settings.data.tokens_per_batch
    if budget is None:
        return settings.trainer.get("per_device_train_batch_size", 8), length
    rows = -(-budget // length)
    return rows, budget // rows


def _copies(settings: Settings) -> dict[str, int]:
    """How often a row is fed: as rows of their own, or one beside the other with a clean copy."""
    chosen = settings.objective
    views = chosen.noisy_views * (1 + chosen.complementary_masks)
    if chosen.objective != "block":
        return {"copies": views}
    whole = settings.data.block_size >= settings.data.max_length and not chosen.block_curriculum
    return {"copies": views, "streams": views + (not whole)}


def estimate_of(settings: Settings, verb: str, facts: Facts) -> Estimate:
    """The memory of one process of a run, divided the way it is launched here."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    sharing = "none" if ranks == 1 else asked_for(settings).sharing
    return estimate(question_of(settings, verb, facts), sharing, ranks)
