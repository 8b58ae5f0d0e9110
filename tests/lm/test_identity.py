"""A model's fingerprint: the same for copies of it, another one for whatever answers otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from tests import tiny
from unmask.convert.adapt import adapt
from unmask.convert.merge import merge_adapter
from unmask.convert.options import AdaptArguments
from unmask.lm import DiffusionLM
from unmask.lm.identity import fingerprint
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.checkpoints import load_model, save_model
from unmask.registry import FAMILIES


def of(folder: Path, **how: Any) -> str:
    return fingerprint(unmask.load(folder, device="cpu", **how))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("identity") / "model")


@pytest.fixture(scope="module")
def adapter(checkpoint: Path) -> Path:
    """An adapter that changes something."""
    lm = unmask.load(checkpoint, device="cpu")
    attach_lora(lm.model, LoraSettings(r=2, lora_alpha=4, lora_dropout=0.0))
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01)
    folder = checkpoint.parent / "adapter"
    lm.save(folder)
    return folder


def in_json(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        told = json.loads((folder / file).read_text("utf-8"))
        change(told)
        (folder / file).write_text(json.dumps(told), "utf-8")

    return edit


def other_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}!{% endfor %}")


OTHERS = {
    "rope_theta": in_json("config.json", lambda told: told.update(rope_theta=500000.0)),
    "rms_norm_eps": in_json("config.json", lambda told: told.update(rms_norm_eps=1e-3)),
    "attention": in_json("config.json", lambda told: told.update(attention="block_causal", block_size=8)),
    "end of text": in_json("config.json", lambda told: told.update(eos_token_id=[1, 200])),
    "chat template": other_template,
    "vocabulary": in_json(
        "tokenizer.json", lambda told: told["model"]["vocab"].update({"A": told["model"]["vocab"]["B"], "B": 38})
    ),
    "normaliser": in_json("tokenizer.json", lambda told: told.update(normalizer={"type": "Lowercase"})),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_answers_otherwise_is_another_model(checkpoint: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(checkpoint, tmp_path / "other")
    OTHERS[what](tmp_path / "other")
    assert of(tmp_path / "other") != of(checkpoint)


def test_blocks_of_another_size_are_another_model(checkpoint: Path, tmp_path: Path) -> None:
    for size in (4, 8):
        shutil.copytree(checkpoint, tmp_path / str(size))
        in_json("config.json", lambda told, size=size: told.update(attention="block_causal", block_size=size))(
            tmp_path / str(size)
        )
    assert of(tmp_path / "4") != of(tmp_path / "8")


def test_every_weight_counts(checkpoint: Path) -> None:
    lm = unmask.load(checkpoint, device="cpu")
    whole = fingerprint(lm)
    embedding = lm.model.get_input_embeddings().weight
    for change in (embedding[5:30], embedding[-1, -1:], lm.model.get_output_embeddings().weight[200, 7:8]):
        kept = change.detach().clone()
        with torch.no_grad():
            change += 1
            assert fingerprint(lm) != whole
            change.copy_(kept)
    assert fingerprint(lm) == whole


def test_weights_larger_than_a_piece_are_read_to_their_end(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.lm.identity._PIECE", 1000)
    lm = unmask.load(checkpoint, device="cpu")
    whole, last = fingerprint(lm), lm.model.get_input_embeddings().weight
    with torch.no_grad():
        last[-1, -1] += 1
    assert fingerprint(lm) != whole


def test_another_type_of_the_weights_is_another_model(checkpoint: Path) -> None:
    assert len({of(checkpoint), of(checkpoint, dtype="bfloat16"), of(checkpoint, dtype="float16")}) == 3


def test_a_copy_is_the_same_model(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "copy")
    lm = unmask.load(tmp_path / "copy", device="cpu")
    assert fingerprint(lm) == of(checkpoint)
    # neither use nor saving makes another one of it
    lm.generate("The", max_new_tokens=4, steps=4)
    lm.tokenizer(["a b c", "d"], padding=True, truncation=True, max_length=2)
    assert fingerprint(lm) == of(checkpoint)
    lm.save(tmp_path / "saved")
    assert of(tmp_path / "saved") == of(checkpoint)


def test_an_adapter_and_its_scale_count(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    both = of(checkpoint, adapter=adapter)
    shutil.copytree(adapter, tmp_path / "copy")
    assert both == of(checkpoint, adapter=tmp_path / "copy") == of(adapter) != of(checkpoint)
    in_json("adapter_config.json", lambda told: told.update(lora_alpha=8))(tmp_path / "copy")
    assert of(checkpoint, adapter=tmp_path / "copy") != both


def test_a_merged_adapter_is_a_model_like_any_other(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        merge_adapter(adapter, tmp_path / name, base=str(checkpoint))
    lm = unmask.load(tmp_path / "one", device="cpu")
    assert fingerprint(lm) == of(tmp_path / "two") != of(checkpoint)
    lm.save(tmp_path / "saved")
    assert of(tmp_path / "saved") == fingerprint(lm)


def test_what_a_model_is_converted_to_is_another_model(tmp_path: Path) -> None:
    source = tmp_path / "causal"
    source.mkdir()
    tiny.write_tokenizer(source)
    size = {"vocab_size": 264, "max_position_embeddings": 64, "eos_token_id": 1}
    (source / "config.json").write_text(json.dumps({**FAMILIES.get("qwen2").tiny_config, **size}))
    save_model(load_model(source, from_scratch=True, seed=1), source)
    found = [of(source)]
    for name, changes in (("whole", {}), ("blocks", {"attention": "block_causal", "block_size": 4})):
        adapt(source, tmp_path / name, AdaptArguments(**changes))
        found.append(of(tmp_path / name))
    lms = [unmask.load(tmp_path / name, device="cpu") for name in ("causal", "whole", "blocks")]
    assert len(set(found)) == 3 and all(equal_weights(lms[0], lm) for lm in lms)


def equal_weights(one: DiffusionLM, other: DiffusionLM) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(first.equal(second) for first, second in pairs)
