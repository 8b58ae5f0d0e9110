"""iLLaDA: LLaDA's code with other token ids. What the checkpoint's own files say goes before what its family knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import unmask
from tests import tiny
from tests.models.tiny import write_config
from unmask.models.checkpoints import load_model, save_model
from unmask.registry import FAMILIES
from unmask.training.run import train

MASK = 5  # of iLLaDA; the tokenizer of these tests calls another token its mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "illada", mask_token_id=MASK)


def saved_mask(folder: Path) -> int | None:
    return json.loads((folder / "config.json").read_text()).get("mask_token_id")


def test_it_is_a_llada_whose_mask_is_the_file_s(folder: Path, tmp_path: Path):
    lm = unmask.load(folder, device="cpu")
    assert lm.family is FAMILIES.get("llada") and lm.family.mask_token_id != MASK
    assert lm.model.mask_token_id == lm.tokenizer.mask_token_id == MASK
    (out,) = lm.generate("red", max_new_tokens=6, block_size=6, steps=6, trace=True, early_stop=False)
    assert [out.trace.token_ids[place] for place in out.trace.masked] == [MASK] * 6
    assert MASK not in out.token_ids
    lm.save(tmp_path / "saved")
    assert saved_mask(tmp_path / "saved") == MASK
    assert unmask.load(tmp_path / "saved", device="cpu").tokenizer.mask_token_id == MASK


def test_training_masks_with_it(folder: Path, settings: Callable[..., object]):
    run = train(settings(model_name_or_path=str(folder), max_steps=1), verb="sft")
    assert saved_mask(run.folder) == MASK
    assert unmask.load(run.folder, device="cpu").tokenizer.mask_token_id == MASK


def test_the_family_s_default_is_written_into_no_other_checkpoint(tmp_path: Path):
    """One whose tokenizer alone names its mask: with as many rows as LLaDA's, the default would be a valid id."""
    rows = {"vocab_size": 126464, "embedding_size": 126464, "d_model": 8, "mask_token_id": ...}
    save_model(load_model(write_config(tmp_path / "a", **rows), from_scratch=True), tmp_path / "b")
    assert saved_mask(tmp_path / "b") is None
