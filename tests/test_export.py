"""What is written is what the official code reads: keys, names, types, shards, generation settings, tokenizer, card."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, GenerationConfig, LlamaForCausalLM

import unmask
from tests import tiny
from tests.models.tiny import tokens
from tests.stories import write_llama
from unmask.errors import ModelError
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.checkpoints import load_model, save_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GENERATION = {"do_sample": True, "temperature": 0.7, "eos_token_id": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tiny.write_checkpoint(tmp_path / "source")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    return folder


def described(file: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Name -> type, shape and bytes, in the order of the file."""
    with safe_open(file, framework="pt") as opened:
        return {
            name: (opened.get_slice(name).get_dtype(), opened.get_slice(name).get_shape(), _bytes(opened, name))
            for name in opened.keys()  # noqa: SIM118
        }


def _bytes(opened, name: str) -> bytes:  # noqa: ANN001
    return opened.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes()


# the folders of the reference implementations that hold weights; what is in their names is compared whole
GOLDEN = ("llada", "a2d_llama", "a2d_qwen2", "a2d_qwen3", "dream", "llada_moe", "llada2_moe", "llada21_moe")


@pytest.mark.parametrize("name", GOLDEN)
def test_an_official_checkpoint_comes_out_as_it_went_in(name: str, shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden" / name
    if not (golden / WEIGHTS).is_file():
        pytest.skip(f"golden/{name} holds no {WEIGHTS}")
    save_model(load_model(golden), tmp_path)
    before, after = (json.loads((place / "config.json").read_text()) for place in (golden, tmp_path))
    spelled = {"dtype": before.get("dtype", before.get("torch_dtype"))}
    without = {key: value for key, value in before.items() if key != "torch_dtype"}
    added = {key: value for key, value in after.items() if key not in {**without, **spelled}}
    assert {key: value for key, value in after.items() if key not in added} == {**without, **spelled}
    assert set(added) <= {"mask_token_id"}
    assert described(tmp_path / WEIGHTS) == described(golden / WEIGHTS)
    if (golden / "generation_config.json").is_file():
        assert (tmp_path / "generation_config.json").read_bytes() == (golden / "generation_config.json").read_bytes()


def test_a_folder_has_all_that_others_look_for(folder: Path, tmp_path: Path) -> None:
    lm = unmask.load(folder, device="cpu")
    lm.save(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"config.json", WEIGHTS, "generation_config.json", "tokenizer.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".part", ".bin", ".pt"))]
    assert GenerationConfig.from_pretrained(tmp_path / "saved").temperature == 0.7
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer.mask_token_id == 0 and tokenizer("red")["input_ids"] == lm.tokenizer("red")["input_ids"]
    assert tokenizer.chat_template == lm.tokenizer.chat_template
    card = (tmp_path / "saved/README.md").read_text()
    assert all(word in card for word in ("library_name: unmask", "masked-diffusion", "strategy", str(folder)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_is_the_models_and_written_down(dtype: str, folder: Path, tmp_path: Path) -> None:
    unmask.load(folder, device="cpu", dtype=dtype).save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["dtype"] == dtype
    short = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype]
    assert {kind for kind, _, _ in described(tmp_path / "saved" / WEIGHTS).values()} == {short}


def test_shards_are_as_small_as_asked_and_named_as_usual(folder: Path, tmp_path: Path) -> None:
    lm = unmask.load(folder, device="cpu")
    lm.save(tmp_path / "saved", max_shard_size="60KB")
    files = sorted(path.name for path in (tmp_path / "saved").glob("*.safetensors"))
    assert len(files) > 1
    assert all(re.fullmatch(rf"model-\d{{5}}-of-{len(files):05}\.safetensors", name) for name in files)
    index = json.loads((tmp_path / "saved" / INDEX).read_text())
    stored = {name: file for file in files for name in described(tmp_path / "saved" / file)}
    assert index["weight_map"] == stored
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in lm.model.parameters())
    assert all((tmp_path / "saved" / name).stat().st_size < 66_000 for name in files)


def test_a_run_passes_the_generation_settings_on(folder: Path, texts: Path, settings, tmp_path: Path) -> None:
    from unmask.training.run import train

    done = train(settings(model_name_or_path=str(folder), dataset_args=str(texts), max_length=32), verb="pretrain")
    assert json.loads((done.folder / "generation_config.json").read_text()) == GENERATION


def test_saving_in_place_keeps_them(folder: Path) -> None:
    unmask.load(folder, device="cpu").save(folder)
    assert json.loads((folder / "generation_config.json").read_text()) == GENERATION


@torch.no_grad()
def test_a_real_autoregressive_model_opens_in_transformers(shared: Path, tmp_path: Path) -> None:
    source = write_llama(tmp_path / "llama", shared / "data" / "weights_stories260k")
    ours = load_model(source)
    save_model(ours, tmp_path / "saved", max_shard_size="300KB")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(theirs(tokens(vocab=512)).logits, ours(tokens(vocab=512)).logits, atol=1e-4, rtol=1e-5)


# under an adapter


def test_an_adapter_brings_its_own_tokenizer(tmp_path: Path) -> None:
    """Tokens were added within the spare rows, and their embeddings trained beside the adapter."""
    base = tiny.write_checkpoint(tmp_path / "base", vocab_size=300, embedding_size=300)
    lm = unmask.load(base, device="cpu")
    lm.tokenizer.add_tokens(["<table>"])
    attach_lora(lm.model, LoraSettings(r=2, target_modules="q_proj", modules_to_save="wte,head"))
    with torch.no_grad():
        lm.model.trunk.embed.modules_to_save.default.weight[262] = 0.5
    lm.save(tmp_path / "adapter")
    for again in (
        unmask.load(tmp_path / "adapter", device="cpu"),
        unmask.load(base, adapter=tmp_path / "adapter", device="cpu"),
    ):
        ids = again.tokenizer("<table>", return_tensors="pt")["input_ids"]
        assert ids.tolist() == [[262]]
        assert torch.equal(again.model(ids).logits, lm.model(ids).logits)
    from unmask.convert.merge import merge_adapter

    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    merged = unmask.load(tmp_path / "merged", device="cpu")
    assert merged.tokenizer("<table>")["input_ids"] == [262]
    torch.testing.assert_close(merged.model(ids).logits, lm.model(ids).logits, atol=1e-5, rtol=0)


def test_a_tokenizer_too_large_for_the_base_is_refused(tmp_path: Path) -> None:
    base = tiny.write_checkpoint(tmp_path / "base")
    lm = unmask.load(base, device="cpu")
    attach_lora(lm.model, LoraSettings(r=2))
    lm.tokenizer.add_tokens(["<a>", "<b>", "<c>"])
    lm.save(tmp_path / "adapter")
    with pytest.raises(ModelError, match="the tokenizer has 265 ids, the model only 264 rows"):
        unmask.load(tmp_path / "adapter", device="cpu")
