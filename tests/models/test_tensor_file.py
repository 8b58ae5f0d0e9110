"""A file of tensors is replaced whole, under the reader, and is open to whom new files are."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from unmask.models.tensor_file import write_tensors


def test_others_may_read_what_they_may_read_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_tensors({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert {path.name for path in tmp_path.iterdir()} == {"other", "model.safetensors"}


def test_a_file_is_replaced_by_its_own_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors({"a": torch.arange(100_000)}, path)
    write_tensors({"b": load_file(path)["a"]}, path)
    assert load_file(path)["b"].equal(torch.arange(100_000))
