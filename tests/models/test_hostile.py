"""Folders made to harm, to deceive or by mistake: each is refused with a sentence.

Meanwhile, as while good ones are loaded, nothing is unpickled, executed, started or connected to. One process loads
them all, watched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from unmask.models.adapters import LoraSettings, attach_lora, save_adapter
from unmask.models.checkpoints import load_model, save_model

Change = Callable[[Path], object]
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, ADAPTER = "tokenizer_config.json", "on-top/adapter_config.json"
HEAD = "model.transformer.ff_out.weight"
# run when unpickled, imported or rendered, each leaves this file behind
MARK = "executed"
PICKLE = b"cos\nsystem\n(S'touch executed'\ntR."
CODE = f"open({MARK!r}, 'w').close()\n"
SECRET = "elsewhere"


def written(name: str, content: bytes | str) -> Change:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def changed(name: str, **changes: Any) -> Change:
    """A JSON file with some keys changed; `...` drops one."""

    def change(folder: Path) -> None:
        found = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))

    return change


def weights(**changes: Any) -> Change:
    """The weights with some tensors changed by name."""

    def change(folder: Path) -> None:
        tensors = {name: value.clone() for name, value in load_file(folder / WEIGHTS).items()}
        tensors |= {name.replace("__", "."): value for name, value in changes.items()}
        save_file({name: value for name, value in tensors.items() if value is not None}, folder / WEIGHTS)

    return change


def header(text: str, size: int | None = None, data: bytes = b"") -> Change:
    """A file of weights with such a header, said to be `size` bytes long."""
    head = text.encode()
    length = struct.pack("<Q", len(head) if size is None else size)
    return written(WEIGHTS, length + head + data)


def entry(dtype: str = "F32", shape: str = "[2]", offsets: str = "[0,8]") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def pickled(name: str) -> Change:
    return lambda folder: ((folder / WEIGHTS).unlink(), written(name, PICKLE)(folder))


def sharded(change: Callable[[dict[str, str]], Any]) -> Change:
    """Cut into shards, then with a changed index."""

    def cut(folder: Path) -> None:
        save_model(load_model(folder), folder, max_shard_size="60KB")
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return cut


def linked(name: str) -> Change:
    """A file of the folder replaced by a link to one like it elsewhere."""

    def change(folder: Path) -> None:
        other = folder.parent / SECRET
        other.mkdir(exist_ok=True)
        shutil.move(folder / name, other / f"{folder.name}-{name}")
        (folder / name).symlink_to(other / f"{folder.name}-{name}")

    return change


def linked_shard(folder: Path) -> None:
    sharded(lambda index: None)(folder)
    linked(min(path.name for path in folder.glob("model-*.safetensors")))(folder)


def named_pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def code_beside(folder: Path) -> None:
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "evil.py", "__init__.py"):
        (folder / name).write_text(CODE)


AUTO = {
    "AutoConfig": "configuration_evil.Evil",
    "AutoModel": "modeling_evil.Evil",
    "AutoTokenizer": ["evil.Evil", None],
}


def with_code(**changes: Any) -> Change:
    return lambda folder: (code_beside(folder), changed(CONFIG, auto_map=AUTO, **changes)(folder))


def template(text: str) -> Change:
    return written("chat_template.jinja", text)


# name -> what is done to a good folder, and what is said
HOSTILE: dict[str, tuple[Change, str]] = {
    # the configuration
    "config is text": (written(CONFIG, "torch.load('x')"), "is not valid JSON"),
    "config is a pickle": (written(CONFIG, PICKLE), "is not valid JSON"),
    "config is a list": (written(CONFIG, "[1]"), "holds a list, not a configuration"),
    "config is half": (written(CONFIG, '{"model_type": "llada", "d_model"'), "is not valid JSON"),
    "config is deep": (written(CONFIG, '{"a":' * 100_000), "is not valid JSON: it is nested too deep"),
    "config says it twice": (
        written(CONFIG, '{"model_type": "llada", "model_type": "llama"}'),
        'the key "model_type" stands there twice',
    ),
    "config is absent": (lambda folder: (folder / CONFIG).unlink(), "holds no config.json"),
    "unknown architecture with code": (with_code(model_type="evil"), 'model_type "evil" is not supported'),
    "no architecture but code": (with_code(model_type=...), 'model_type "None" is not supported'),
    "kernel from the hub": (
        changed(CONFIG, _attn_implementation_internal="evil/kernel"),
        'key "_attn_implementation_internal" is not known for llada and might change the model',
    ),
    "quantization by code": (
        changed(CONFIG, quantization_config={"quant_method": "evil"}),
        'key "quantization_config" is not known for llada',
    ),
    "another activation": (changed(CONFIG, activation_type="gelu"), "activation_type='gelu' is not supported"),
    "layers without end": (changed(CONFIG, n_layers=10**9), "layers is 1000000000; it must be a whole number from 1"),
    "rows without end": (changed(CONFIG, vocab_size=2**50, embedding_size=2**50), "vocab_size is 1125899906842624"),
    "width by name": (changed(CONFIG, d_model="32"), "value has the wrong type|whole number"),
    "width is a list": (changed(CONFIG, d_model=[32]), "value has the wrong type|whole number"),
    "heads do not fit": (changed(CONFIG, n_heads=5), "must divide into 5 heads"),
    "a norm of infinity": (changed(CONFIG, rms_norm_eps=float("inf")), "rms_norm_eps is inf; it must be a number"),
    "a flag in words": (changed(CONFIG, weight_tying="no"), "weight_tying is 'no'; it must be true or false"),
    "a mask beyond the rows": (changed(CONFIG, mask_token_id=10**6), "mask_token_id 1000000 must lie in 0..263"),
    # the weights
    "pickle bin": (pickled("pytorch_model.bin"), "holds its weights as pytorch_model.bin, a pickle"),
    "pickle pt": (pickled("model.pt"), "holds its weights as model.pt, a pickle"),
    "pickle named safetensors": (written(WEIGHTS, PICKLE), "is damaged or cut off"),
    "zip named safetensors": (written(WEIGHTS, b"PK\x03\x04" + bytes(60)), "is damaged or cut off"),
    "weights are empty": (written(WEIGHTS, b""), "is damaged or cut off"),
    "weights are cut": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7]),
        "is damaged or cut off",
    ),
    "more behind the weights": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + PICKLE),
        "is damaged or cut off",
    ),
    "header of exabytes": (header("{}", size=2**62), "is damaged or cut off"),
    "header is no json": (header("{" * 1000), "is damaged or cut off"),
    "header of nothing": (header('{"a":' + entry(shape="[NaN]") + "}", data=bytes(8)), "is damaged or cut off"),
    "tensor larger than memory": (
        header('{"a":' + entry(shape=f"[{2**40},{2**40}]", offsets=f"[0,{2**63}]") + "}"),
        "is damaged or cut off",
    ),
    "shape lies about its bytes": (header('{"a":' + entry(shape="[9]") + "}", data=bytes(8)), "is damaged or cut off"),
    "negative offsets": (header('{"a":' + entry(offsets="[-8,0]") + "}", data=bytes(8)), "is damaged or cut off"),
    "tensors that overlap": (
        header('{"a":' + entry() + ',"b":' + entry(offsets="[4,12]") + "}", data=bytes(12)),
        "is damaged or cut off",
    ),
    "a tensor twice": (header('{"a":' + entry() + ',"a":' + entry() + "}", data=bytes(8)), "damaged|are not part of"),
    "an unknown type": (header('{"a":' + entry(dtype="OBJECT") + "}", data=bytes(8)), "is damaged or cut off"),
    "another shape": (weights(**{HEAD: torch.zeros(264, 31)}), "config.json asks for [264, 32]"),
    "transposed": (weights(**{HEAD: torch.zeros(32, 264)}), "has shape [32, 264]"),
    "integers": (weights(**{HEAD: torch.zeros(264, 32, dtype=torch.int8)}), "weights that are not quantized"),
    "eight bits of float": (
        weights(**{HEAD: torch.zeros(264, 32).to(torch.float8_e4m3fn)}),
        "weights that are not quantized",
    ),
    "a tensor too many": (weights(evil=torch.ones(2)), "1 are not part of a llada model (first: evil)"),
    "a tensor missing": (weights(**{HEAD: None}), f"1 tensors are missing (first: {HEAD})"),
    "weights are a link": (linked(WEIGHTS), "is a link to"),
    "weights are a pipe": (named_pipe, "holds a configuration but no weights"),
    # the index of shards
    "a shard is a link": (linked_shard, "is a link to"),
    "a shard above": (sharded(lambda index: index.update({HEAD: "../model.safetensors"})), "points outside its folder"),
    "a shard at the root": (sharded(lambda index: index.update({HEAD: "/etc/passwd"})), "points outside its folder"),
    "a shard below": (sharded(lambda index: index.update({HEAD: "sub/model.safetensors"})), "points outside"),
    "a shard that is a folder": (sharded(lambda index: index.update({HEAD: "."})), "points outside|lacks the shard"),
    "a shard that is a number": (sharded(lambda index: index.update({HEAD: 5})), "outside|is not an index"),
    "a shard with a nul": (sharded(lambda index: index.update({HEAD: "a\0b"})), "lacks the shard"),
    "a shard that is no weights": (sharded(lambda index: index.update({HEAD: CONFIG})), "is damaged or cut off"),
    "a shard that is absent": (sharded(lambda index: index.update({HEAD: "no.safetensors"})), "lacks the shard"),
    "an index too poor": (sharded(lambda index: index.pop(HEAD)), "1 tensors are missing"),
    "an index too rich": (sharded(lambda index: index.update(evil=index[HEAD])), "is damaged or cut off"),
    # the tokenizer
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
    "tokenizer is a pickle": (written("tokenizer.json", PICKLE), "tokenizer cannot be read"),
    "tokenizer of another model": (
        changed(CONFIG, vocab_size=64, embedding_size=64),
        "do not belong together",
    ),
    "no mask token": (
        lambda folder: (changed(CONFIG, mask_token_id=...)(folder), without_mask(folder)),
        "Add mask_token_id to config.json",
    ),
    # the template, which is a program in a box
    "template out of its box": (
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "cannot be written with the chat template",
    ),
    "template that reads files": (template("{% include '/etc/passwd' %}"), "cannot be written with the chat template"),
    "template that imports": (
        template("{{ cycler.__init__.__globals__.os.system('touch executed') }}"),
        "cannot be written with the chat template",
    ),
    "template without end": (
        template("{% for a in range(999999999) %}x{% endfor %}"),
        "cannot be written with the chat template",
    ),
    # an adapter
    "adapter is a pickle": (
        lambda folder: (adapter(folder) / "adapter_model.safetensors").rename(folder / "on-top/adapter_model.bin"),
        "is missing or damaged",
    ),
    "adapter of another method": (
        lambda folder: (adapter(folder), changed(ADAPTER, peft_type="EVIL")(folder)),
        "is a EVIL adapter",
    ),
    "adapter with absurd numbers": (
        lambda folder: (adapter(folder), changed(ADAPTER, r=10**9)(folder)),
        "does not fit this model: adapter_config.json says r is 1000000000",
    ),
    "adapter of numbers in words": (
        lambda folder: (adapter(folder), changed(ADAPTER, lora_alpha="high")(folder)),
        "lora_alpha is 'high', which is no such setting",
    ),
    "adapter that changes the base": (
        lambda folder: (adapter(folder), changed(ADAPTER, init_lora_weights="pissa")(folder)),
        "init_lora_weights='pissa' takes a part out of the base",
    ),
    "adapter with unknown settings": (
        lambda folder: (adapter(folder), changed(ADAPTER, layer_replication=[[0, 4]])(folder)),
        "layer_replication=[[0, 4]] is not supported",
    ),
    "adapter of other names": (
        lambda folder: (adapter(folder), renamed(folder)),
        "is no layer of a llada model",
    ),
}


def without_mask(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().replace(tiny.SPECIAL[0], "<|nothing|>")
    (folder / "tokenizer.json").write_text(text)
    changed(TOKENIZER, mask_token=...)(folder)


def adapter(folder: Path) -> Path:
    model = load_model(folder)
    attach_lora(model, LoraSettings(r=2, target_modules="q_proj"))
    save_adapter(model, folder / "on-top")
    return folder / "on-top"


def renamed(folder: Path) -> None:
    file = folder / "on-top/adapter_model.safetensors"
    save_file({name.replace("transformer", "evil"): value for name, value in load_file(file).items()}, file)


# what must load all the same, and execute as little
GOOD: dict[str, Change] = {
    "good": lambda folder: None,
    "adapted": adapter,
    "official, with its code": with_code(),
    "code of a tokenizer": lambda folder: (
        code_beside(folder),
        changed(TOKENIZER, auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")(folder),
    ),
    "shards": sharded(lambda index: None),
    "pickles beside weights": lambda folder: (
        written("optimizer.pt", PICKLE)(folder),
        written("training_args.bin", PICKLE)(folder),
        written("pytorch_model.bin", PICKLE)(folder),
    ),
    "adapter with orders": lambda folder: (
        adapter(folder),
        changed(
            ADAPTER,
            auto_mapping={"base_model_class": "Evil", "parent_library": "evil"},
            target_modules="(a+)+$",
            base_model_name_or_path="evil/name",
            layer_replication=None,
            future_setting=False,
        )(folder),
    ),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How loading each folder ended, and what was seen meanwhile."""
    root = tmp_path_factory.mktemp("folders")
    model = tiny.write_checkpoint(root / "model")
    folders = {}
    for name, change in {**GOOD, **{name: case[0] for name, case in HOSTILE.items()}}.items():
        folders[name] = shutil.copytree(model, root / re.sub(r"\W+", "-", name))
        change(folders[name])
    # on some processors bitsandbytes, which PEFT imports where it is installed, asks this package for a program
    (root / "path/kernels").mkdir(parents=True)
    (root / "path/kernels/__init__.py").write_text(f"def get_kernel(*_, **__):\n    {CODE}")
    command = [sys.executable, str(Path(__file__).with_name("watched.py")), *map(str, folders.values())]
    environment = {**os.environ, "PYTHONPATH": str(root / "path")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    left = [str(path) for path in root.rglob(MARK)]
    assert not left, f"something of a folder was run: {left}"
    return {**found, **{name: found[str(folder)] for name, folder in folders.items()}}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_with_a_sentence(name: str, verdicts: dict[str, dict[str, Any]]) -> None:
    ended, phrases = verdicts[name]["ended"], HOSTILE[name][1].split("|")
    assert ended.startswith(("ModelError: ", "DataError: ")), ended
    assert any(phrase in ended for phrase in phrases), ended
    assert "\n" not in ended.removesuffix("\n") and len(ended) < 700


@pytest.mark.parametrize("name", [*HOSTILE, *GOOD])
def test_nothing_is_executed_meanwhile(name: str, verdicts: dict[str, dict[str, Any]]) -> None:
    seen = verdicts[name]["seen"]
    if name.startswith("template"):  # jinja makes Python of a template; what that may do is its sandbox's
        seen = [event for event in seen if not re.match(r"(compile|exec|import|code.__new__) .*", event)]
    assert seen == []


@pytest.mark.parametrize("name", GOOD)
def test_a_good_one_loads_beside_code_and_pickles(name: str, verdicts: dict[str, dict[str, Any]]) -> None:
    assert verdicts[name]["ended"].startswith("loaded "), verdicts[name]["ended"]


def test_not_even_while_libraries_are_imported(verdicts: dict[str, dict[str, Any]]) -> None:
    first = [verdict for name, verdict in verdicts.items() if name.startswith("first ")]
    assert len(first) == 2 and all(verdict["seen"] == [] for verdict in first)


def test_what_is_looked_for_would_be_seen(verdicts: dict[str, dict[str, Any]]) -> None:
    seen = "\n".join(verdicts["on purpose"]["seen"])
    for event in ("pickle.find_class", "subprocess.Popen", "socket.connect", "compile", "exec"):
        assert event in seen


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 25


def test_the_hubs_cache_is_made_of_links_and_loads(tmp_path: Path) -> None:
    stored, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    model = tiny.write_checkpoint(tmp_path / "model")
    stored.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(model.iterdir())):
        shutil.copy(path, stored / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    assert torch.equal(load_model(snapshot).head.weight, load_model(model).head.weight)
