"""Files of weights that are damaged, absent, elsewhere or pickled are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.models.tiny import build, checkpoint, tokens, write_config
from unmask.errors import ModelError
from unmask.models.checkpoints import load_model, save_model
from unmask.models.shards import holds_weights

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD = "model.transformer.ff_out.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "model")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    save_model(build(tmp_path / "config"), tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    return tmp_path / "shards"


def refused(folder: Path, phrase: str) -> str:
    with pytest.raises(ModelError, match=phrase) as caught:
        load_model(folder)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file(folder: Path, keep: int):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:keep])
    message = refused(folder, "damaged or cut off")
    assert f"{len(data[:keep]):,} bytes" in message and WEIGHTS in message


def test_a_header_larger_than_the_file_allocates_nothing(folder: Path):
    header = json.dumps({HEAD: {"dtype": "F32", "shape": [2**31, 2**20], "data_offsets": [0, 2**53]}}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    refused(folder, "damaged or cut off")


def test_a_missing_shard(shards: Path):
    lost = sorted(shards.glob("*.safetensors"))[1]
    lost.unlink()
    refused(shards, f"lacks the shard {lost.name} that its index names")


@pytest.mark.parametrize("target", ["../{}", "/tmp/{}", "sub/{}", "..", ".", "", 5, None, ["a"]])
def test_an_index_that_points_elsewhere(shards: Path, target: object):
    index = json.loads((shards / INDEX).read_text())
    name, file = next(iter(index["weight_map"].items()))
    shutil.copy(shards / file, shards.parent / file)
    index["weight_map"][name] = target.format(file) if isinstance(target, str) else target
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, "points outside its folder|lacks the shard|is not an index of shards")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 5}', '{"weight_map": null}', "[" * 100_000])
def test_a_broken_index(shards: Path, text: str):
    (shards / INDEX).write_text(text)
    refused(shards, "is not an index of shards")


def test_an_index_that_names_a_tensor_its_shard_lacks(shards: Path):
    index = json.loads((shards / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"][HEAD] = next(file for file in files if file != index["weight_map"][HEAD])
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, "damaged or cut off")


# what does not fit


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_pickles_are_not_opened(tmp_path: Path, name: str):
    write_config(tmp_path)
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(tmp_path, f"holds its weights as {name}, a pickle, which can run code")


def test_an_adapter_is_no_model(tmp_path: Path):
    write_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "is an adapter, not a model. Give its base as the model and this folder as --adapter")


def test_a_configuration_alone(tmp_path: Path):
    assert not holds_weights(write_config(tmp_path))
    refused(
        tmp_path, "holds a configuration but no weights. Start from scratch: unmask pretrain, or --from_scratch true"
    )


def test_of_a_file_and_an_index_the_file_is_taken_as_transformers_takes_it(shards: Path, tmp_path: Path):
    other = build(tmp_path / "other", seed=9)
    save_model(other, tmp_path / "single")
    shutil.copy(tmp_path / "single" / WEIGHTS, shards / WEIGHTS)
    assert torch.equal(load_model(shards)(tokens()).logits, other(tokens()).logits)
