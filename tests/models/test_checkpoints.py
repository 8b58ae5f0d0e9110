"""Reading and writing of weights: what is damaged, foreign or hostile is refused by name, and nothing is executed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.tiny import build, checkpoint, tokens, write_config
from unmask.errors import ConfigError, ModelError, ResourceError
from unmask.models.adapters import LoraSettings, attach_lora, save_adapter
from unmask.models.checkpoints import fill_from_files, load_model, save_model
from unmask.models.shell import DiffusionModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD = "model.transformer.ff_out.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "model")


def rewrite(folder: Path, change) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refused(folder: Path, phrase: str) -> str:
    with pytest.raises(ModelError, match=phrase) as caught:
        load_model(folder)
    return str(caught.value)


# what is damaged


def test_a_shape_other_than_the_configurations(folder: Path):
    write_config(folder, mlp_hidden_size=64)
    message = refused(folder, "The two do not belong together")
    assert "has shape [48, 32], config.json asks for [64, 32]" in message or "[32, 48]" in message


def test_missing_tensors(folder: Path):
    rewrite(folder, lambda tensors: (tensors.pop(HEAD), tensors.pop("model.transformer.ln_f.weight")))
    refused(folder, f"2 tensors are missing .first: {HEAD}")


def test_tensors_too_many(folder: Path):
    rewrite(folder, lambda tensors: tensors.update({"model.transformer.blocks.9.q_proj.weight": torch.ones(2)}))
    refused(folder, "1 are not part of a llada model .first: model.transformer.blocks.9.q_proj.weight")


@pytest.mark.parametrize(
    "name", ["evil", "trunk.embed.weight", "model.transformer.wte", "", "model.transformer.wte.bias"]
)
def test_tensors_of_other_names(folder: Path, name: str):
    rewrite(folder, lambda tensors: tensors.update({name: torch.ones(2)}))
    refused(folder, "1 are not part of a llada model")


def test_weights_of_another_code(folder: Path):
    rewrite(folder, lambda tensors: [tensors.update({f"x.{name}": tensors.pop(name)}) for name in list(tensors)])
    message = refused(folder, "21 tensors are missing")
    assert "21 are not part of a llada model" in message and "--adapter" in message


def test_quantized_weights(folder: Path):
    rewrite(folder, lambda tensors: tensors.update({HEAD: tensors[HEAD].to(torch.int8)}))
    refused(folder, "int8. Give weights that are not quantized")


def test_a_tied_model_ignores_a_stored_head(tmp_path: Path):
    folder = checkpoint(tmp_path, weight_tying=True)
    assert HEAD not in load_file(folder / WEIGHTS)
    rewrite(folder, lambda tensors: tensors.update({HEAD: torch.zeros(64, 32)}))
    model = load_model(folder)
    assert model.head.weight is model.trunk.embed.weight and model.head.weight.abs().sum() > 0


# what is no model


def test_an_empty_folder(tmp_path: Path):
    refused(tmp_path, "holds no config.json")


@pytest.mark.parametrize("dtype, hint", [("bf16", "bfloat16"), ("fp32", ""), ("float64", "float"), ("load", "")])
def test_an_unknown_type_of_weights(folder: Path, dtype: str, hint: str):
    with pytest.raises(ConfigError, match=f'dtype "{dtype}" is not one of auto, float32, bfloat16, float16.*{hint}'):
        load_model(folder, dtype=dtype)


# the Hub


def test_a_model_from_the_hub_says_where_its_code_is(tmp_path: Path, monkeypatch):
    cached = checkpoint(tmp_path / "cache", auto_map={"AutoModel": "modeling_llada.LLaDAModelLM", "X": "a/b--c.D"})
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(cached))
    save_model(load_model("owner/name"), tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/config.json").read_text())
    assert saved["auto_map"] == {"AutoModel": "owner/name--modeling_llada.LLaDAModelLM", "X": "a/b--c.D"}
    load_model(tmp_path / "saved")


# the code beside the weights


def test_code_beside_the_weights_is_carried_and_never_run(tmp_path: Path):
    source = tmp_path / "source"
    checkpoint(source, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"})
    for name in ("modeling_llada.py", "evil.py", "configuration_llada.py"):
        (source / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    model = load_model(source)
    save_model(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert not (tmp_path / "ran").exists()
    assert not [name for name in sys.modules if name.endswith(("modeling_llada", "evil"))]
    assert (tmp_path / "saved/modeling_llada.py").read_text() == (source / "modeling_llada.py").read_text()
    assert json.loads((tmp_path / "saved/config.json").read_text())["auto_map"] == model.facts.config["auto_map"]
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)


def test_code_that_no_auto_map_names_stays(tmp_path: Path):
    source = checkpoint(tmp_path / "source")
    (source / "train.py").write_text("1 / 0\n")
    save_model(load_model(source), tmp_path / "saved")
    assert not (tmp_path / "saved/train.py").exists()


def test_code_beside_a_finished_run_is_carried_too(tmp_path: Path):
    checkpoint(tmp_path / "run/checkpoint-final", auto_map={"AutoModel": "modeling_llada.LLaDAModelLM"})
    (tmp_path / "run/checkpoint-final/modeling_llada.py").write_text("1 / 0\n")
    save_model(load_model(tmp_path / "run"), tmp_path / "saved")
    assert (tmp_path / "saved/modeling_llada.py").exists()


# reading and writing


def test_saving_over_the_file_one_was_loaded_from(folder: Path):
    model = load_model(folder)
    before = model(tokens()).logits
    with torch.no_grad():
        model.head.weight.mul_(2)
    save_model(model, folder)
    torch.testing.assert_close(load_model(folder)(tokens()).logits, 2 * before)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS]


@pytest.mark.parametrize("sizes", [("10KB", "5GB"), ("5GB", "10KB"), ("10KB", "20KB")])
def test_saving_leaves_no_weights_of_an_earlier_save(tmp_path: Path, sizes: tuple[str, str]):
    save_model(build(tmp_path / "a", seed=1), tmp_path / "saved", max_shard_size=sizes[0])
    (tmp_path / "saved/notes.safetensors").write_text("mine")
    model = build(tmp_path / "b", seed=2)
    save_model(model, tmp_path / "saved", max_shard_size=sizes[1])
    assert torch.equal(load_model(tmp_path / "saved")(tokens()).logits, model(tokens()).logits)
    files = {path.name for path in (tmp_path / "saved").glob("model*")}
    assert (WEIGHTS in files) != (INDEX in files)
    if INDEX in files:
        named = set(json.loads((tmp_path / "saved" / INDEX).read_text())["weight_map"].values())
        assert files == {INDEX, *named}
    assert (tmp_path / "saved/notes.safetensors").exists()


def test_changing_a_loaded_model_leaves_its_file_alone(folder: Path):
    before, model = (folder / WEIGHTS).read_bytes(), load_model(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (folder / WEIGHTS).read_bytes() == before


def test_types_are_kept_or_changed_as_asked(folder: Path, tmp_path: Path):
    exact = load_model(folder)
    half = load_model(folder, dtype="bfloat16")
    save_model(half, tmp_path / "half")
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / WEIGHTS).values()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(tmp_path / "half").parameters()} == {torch.bfloat16}
    back = load_model(tmp_path / "half", dtype="float32")
    for name, parameter in back.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.requires_grad
        assert torch.equal(parameter, exact.get_parameter(name).bfloat16().float())


def test_an_older_spelling_of_the_type_is_replaced(tmp_path: Path):
    save_model(build(tmp_path / "a", torch_dtype="float16"), tmp_path / "b")
    saved = json.loads((tmp_path / "b/config.json").read_text())
    assert "torch_dtype" not in saved and saved["dtype"] == "float32"


def test_a_mask_token_found_elsewhere_is_written_and_an_impossible_one_is_not(tmp_path: Path):
    model = build(tmp_path / "a", mask_token_id=...)
    save_model(model, tmp_path / "b")
    assert "mask_token_id" not in json.loads((tmp_path / "b/config.json").read_text())
    model.mask_token_id = 7
    save_model(model, tmp_path / "b")
    assert load_model(tmp_path / "b").mask_token_id == 7


def test_filling_a_model_keeps_its_parameters(folder: Path, tmp_path: Path):
    model = build(tmp_path / "other", seed=5)
    held = dict(model.named_parameters())
    fill_from_files(model, folder)
    assert all(model.get_parameter(name) is parameter for name, parameter in held.items())
    assert torch.equal(model(tokens()).logits, load_model(folder)(tokens()).logits)


def test_tied_weights_stay_tied_through_everything(tmp_path: Path):
    model = load_model(checkpoint(tmp_path, weight_tying=True))
    fill_from_files(model, tmp_path)
    model.to(torch.bfloat16).to("cpu").float()
    assert model.head.weight is model.trunk.embed.weight
    assert model.num_parameters() == sum(tensor.numel() for tensor in load_file(tmp_path / WEIGHTS).values())


@pytest.mark.parametrize("where", ["a file in the way", "a folder of the weights' name"])
def test_a_place_that_cannot_be_written(folder: Path, tmp_path: Path, where: str):
    target = tmp_path / "target"
    if where == "a file in the way":
        target.write_text("")
    else:
        (target / WEIGHTS / "x").mkdir(parents=True)
    with pytest.raises(ResourceError, match="cannot save to .*Free space or choose another folder"):
        save_model(load_model(folder), target)


def test_an_adapted_model_is_not_saved_as_a_plain_one(folder: Path, tmp_path: Path):
    model = load_model(folder)
    attach_lora(model, LoraSettings(r=2))
    with pytest.raises(ModelError, match="holds an adapter. Save that with save_adapter, or merge it"):
        save_model(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    save_adapter(model, tmp_path / "adapter")
    with pytest.raises(ModelError, match="holds no config.json"):
        load_model(tmp_path / "adapter")


def test_transformers_own_methods_write_our_layout_or_refuse(folder: Path, tmp_path: Path):
    model = load_model(folder)
    model.save_pretrained(tmp_path / "saved", max_shard_size="10KB", state_dict=None, is_main_process=True)
    assert (tmp_path / "saved" / INDEX).exists()
    assert torch.equal(load_model(tmp_path / "saved")(tokens()).logits, model(tokens()).logits)
    with pytest.raises(ModelError, match="takes a folder and max_shard_size; got push_to_hub, variant too"):
        model.save_pretrained(tmp_path / "no", push_to_hub=True, variant="fp16")
    with pytest.raises(ModelError, match=r"from_pretrained does not exist. Use unmask.load\(folder\).model"):
        DiffusionModel.from_pretrained(folder)
    with pytest.raises(ModelError, match="vocabulary of a loaded model is fixed"):
        model.resize_token_embeddings(80)
    assert not (tmp_path / "no").exists()


PEAK = """
import resource, sys
import torch
from unmask.models.checkpoints import load_model
load_model(sys.argv[1])
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
model = load_model(sys.argv[2], dtype=sys.argv[3])
touched = sum(float(p.sum()) for p in model.parameters())
print(peak() - before, touched)
"""


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_loading_takes_little_more_memory_than_the_model(tmp_path: Path, dtype: str):
    shape = dict(
        d_model=768,
        n_heads=12,
        n_kv_heads=12,
        mlp_hidden_size=2048,
        n_layers=4,
        max_sequence_length=64,
        init_fn="normal",
    )
    small, large = checkpoint(tmp_path / "small"), tmp_path / "large"
    save_model(
        load_model(write_config(large, vocab_size=16384, embedding_size=16384, **shape), from_scratch=True), large
    )
    size = (large / WEIGHTS).stat().st_size
    assert size > 2e8
    out = subprocess.run(
        [sys.executable, "-c", PEAK, str(small), str(large), dtype], capture_output=True, text=True, check=True
    )
    # a file mapped into memory counts as resident once read, so a conversion shows both copies
    assert int(out.stdout.split()[0]) < size * (1.15 if dtype != "bfloat16" else 1.65)
