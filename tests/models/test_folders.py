"""Which folder a name stands for; one that stands for none is refused, and the Hub gives neither code nor pickles."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

from tests.models.tiny import checkpoint, tokens
from unmask.errors import ModelError
from unmask.models.adapters import LoraSettings, attach_lora, base_of, save_adapter
from unmask.models.checkpoints import load_model
from unmask.models.folders import resolve_folder

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "model")


def test_a_finished_run_is_a_model_brackets_in_its_name_included(tmp_path: Path):
    run = tmp_path / "alpaca[train:100,test:10]"
    checkpoint(run / "checkpoint-final")
    assert resolve_folder(run) == run / "checkpoint-final"
    assert torch.equal(load_model(run)(tokens()).logits, load_model(run / "checkpoint-final")(tokens()).logits)


# what comes with the package, and what is no model


def test_the_model_that_comes_with_the_package_has_a_name(tmp_path: Path, monkeypatch):
    folder = checkpoint(tmp_path / "unmask" / "demo" / "base")
    monkeypatch.setattr("unmask.models.folders.files", lambda package: tmp_path / package)
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("example:base") == folder
    model = load_model("example:base")
    attach_lora(model, LoraSettings(r=2))
    save_adapter(model, tmp_path / "adapter")
    assert base_of(tmp_path / "adapter") == "example:base"


def test_an_example_that_does_not_exist_is_refused(tmp_path: Path, monkeypatch):
    with pytest.raises(ModelError, match='"example:bas" comes with unmask; there is example:base. Did you mean'):
        resolve_folder("example:bas")
    monkeypatch.setattr("unmask.models.folders.files", lambda package: tmp_path / package)
    with pytest.raises(ModelError, match="lacks its model"):
        resolve_folder("example:base")


@pytest.mark.parametrize(
    "name", ["no/such/folder", "./here", "/nowhere", "~/model", "gpt2", "a" * 5000, "a\0b", "model.bin"]
)
def test_a_name_that_is_neither_folder_nor_hub_id(name: str, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(
        ModelError, match="no folder .*Give a folder with a config.json, or a Hub id such as owner/name"
    ):
        load_model(name)


def test_a_file_is_no_folder(folder: Path):
    with pytest.raises(ModelError, match="Give a folder with a config.json"):
        load_model(folder / WEIGHTS)


# the Hub


def test_an_id_that_the_hub_does_not_give(monkeypatch):
    def offline(*args: object, **kwargs: object) -> None:
        raise LocalEntryNotFoundError("Cannot find the files in the cache and offline mode is on.\nMore.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        ModelError, match="no such model on the Hub within reach .Cannot find.*Check the name"
    ) as caught:
        load_model("owner/name")
    assert "\n" not in str(caught.value)


def test_offline_mode_is_honoured_by_the_real_client(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="no such model on the Hub within reach"):
        load_model("no-such-owner/no-such-model")


@pytest.mark.parametrize("name", ["a/b c", "owner/..", "-a/b", "a/b."])
def test_an_id_that_cannot_be_one(name: str, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="no such model on the Hub within reach|Give a folder"):
        load_model(name)


def test_a_gated_model_says_what_to_do(monkeypatch):
    def gated(*args: object, **kwargs: object) -> None:
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(ModelError, match="is gated: accept its terms on the Hub, then run hf auth login"):
        load_model("owner/name")


def test_the_hub_is_asked_for_no_code_and_no_pickle_and_for_weights_only_when_needed(folder: Path, monkeypatch):
    asked: list[list[str]] = []

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve_folder("owner/name") == resolve_folder("owner/name", weights=False) == folder
    assert "*.safetensors" in asked[0] and "*.safetensors" not in asked[1]
    assert not [pattern for patterns in asked for pattern in patterns if "py" in pattern or "bin" in pattern]
