"""Mistakes of a user, end to end: the right sentence, exit code 2, no traceback, nothing written.

Nothing is doubled here: real folders, real files, the real training code up to the point where it refuses.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from unmask.cli.main import main

ASK = {"role": "user", "content": "red or blue?"}
TELL = {"role": "assistant", "content": "blue"}
GOOD = json.dumps({"messages": [ASK, TELL]})
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint `model`, its bare configuration `bare`, and data."""
    folder = tmp_path_factory.mktemp("made")
    tiny.write_checkpoint(folder / "model")
    tiny.write_checkpoint(folder / "bare", weights=False)
    tiny.write_conversations(folder / "good.jsonl")
    return folder


@pytest.fixture
def refused(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command in a folder of its own; the message with which it is refused."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert main([word.replace("@", f"{made}/") for word in argv]) == 2
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        (message,) = [line for line in told.splitlines() if line.startswith("unmask: ")]
        return message

    return run


def sft(*more: str, data: str = "@good.jsonl", model: str = "@model") -> list[str]:
    known = ["--model_name_or_path", model, "--dataset_args", data, "--output_dir", "out", "--max_length", "96"]
    return ["sft", *known, "--max_steps", "2", *more]


YAML = [
    ("mask_shedule: cosine\n", ["a.yaml:1:1", "mask_shedule", "Did you mean"]),
    ("seed: 1\nlearning_rate: 1e-4x\n", ["a.yaml:2:", '"1e-4x" is not a number', "1e-4"]),
    ("lr: 1e-4\nseed: 2\nlr: 2e-4\n", ['"lr" given twice', "1", "3"]),
    ("lora:\n\trank: 2\n", ["a.yaml:2", "tab"]),
    ("seed: !!python/object:os.system 1\n", ["a.yaml:1", "tag"]),
    ("", ["a.yaml", "empty"]),
    ("- seed\n- lr\n", ["mapping", "list"]),
    ("noise_schedule: cosin\n", ["cosin", "linear", 'Did you mean "cosine"']),
    ("time_epsilon: 1.5\n", ["time_epsilon", "1.5"]),
    ("block_size: 32\npadding: block\nmax_length: 1000\n", ["1000", "992", "1024"]),
    ("r: 8\n lora: true\n", ["a.yaml"]),
]


@pytest.mark.parametrize(("text", "words"), YAML)
def test_yaml(refused: Refused, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    message = refused(*sft("--config", "a.yaml")[:5], "--config", "a.yaml", "--output_dir", "out")
    assert all(word in message for word in words), message


FLAGS = [
    (["trian"], ['no command "trian"', "sft"]),
    (["genrate", "--prompt", "x"], ['Did you mean "generate"']),
    (sft("--learing_rate", "1"), ['"--learing_rate"', "--learning_rate"]),
    (sft("--learning_rate", "-0.1"), ["learning_rate", "> 0", "-0.1"]),
    (sft("--learning_rate", "nan"), ["learning_rate"]),
    (sft("--learning_rate", "abc"), ["learning_rate", "abc", "number"]),
    (sft("--per_device_train_batch_size", "0"), ["per_device_train_batch_size", "0"]),
    (sft("--num_train_epochs", "0"), ["num_train_epochs"]),
    (sft("--max_length", "0"), ["max_length"]),
    (sft("--max_length", "5000"), ["5000", "256", "max_length"]),
    (sft("--save_total_limit", "0"), ["save_total_limit", ">= 2"]),
    (sft("--r", "8"), ["r is set", "lora"]),
    (sft("--use_dora"), ["use_dora is set", "lora"]),
    (sft("--lora", "--target_modules", "q_prj"), ["q_prj", 'Did you mean "q_proj"']),
    (sft("--train_turns", "some"), ["some", "all", "last"]),
    (sft("--padding", "eso"), ["eso", 'Did you mean "eos"']),
    (sft("--config", "nowhere.yaml"), ["nowhere.yaml"]),
    (sft("--load_in_4bit", "true"), ["load_in_4bit"]),
    (sft("--freeze", "nothing_like_it"), ["nothing_like_it"]),
    (["sft", "--dataset_args", "@good.jsonl", "--output_dir", "out"], ["model_name_or_path"]),
    (["sft", "--model_name_or_path", "@model", "--output_dir", "out"], ["dataset_args"]),
    (["generate", "--model", "@model", "--prompt", "x", "--temperature", "-1"], ["temperature", "-1"]),
    (["generate", "--model", "@model", "--prompt", "x", "--temperature", "nan"], ["temperature"]),
    (["generate", "--model", "@model", "--prompt", "x", "--steps", "0"], ["steps", "0"]),
    (["generate", "--model", "@model", "--prompt", "x", "--block_size", "0"], ["block_size", "0"]),
    (["generate", "--model", "@model", "--prompt", "x", "--strategy", "confidenc"], ['Did you mean "confidence"']),
    (["generate", "--model", "@model", "--prompt", "x" * 400], ["256"]),
    (["generate", "--model", "@model", "--prompt", "x", "--trace", "a.txt"], ["a.txt", ".json"]),
    (["generate", "--model", "@model", "--prompt", "x", "--trace", "no/where.json"], ["no/where.json"]),
    (["generate", "--model", "@model", "--prompt_file", "nowhere.txt"], ["nowhere.txt"]),
    (["generate", "--model", "@model", "--prompt", "x", "--adapter", "nowhere"], ["nowhere", "adapter"]),
    (["infill", "--model", "@model", "no blank in here"], ["no blank", "[MASK]"]),
    (["show", "familys"], ['Did you mean "families"']),
]


@pytest.mark.parametrize(("argv", "words"), FLAGS, ids=[" ".join(argv)[-40:] for argv, _ in FLAGS])
def test_flags(refused: Refused, argv: list[str], words: list[str]) -> None:
    message = refused(*argv)
    assert all(word in message for word in words), message


DATA = [
    (b'{"messages": [}]}\n' + GOOD.encode(), ["bad.jsonl:1:15", "invalid JSON"]),
    (b'{"messages": [', ["bad.jsonl:1", "ends in the middle of a record"]),
    (GOOD.encode() + b"\n" + GOOD.encode()[:40], ["bad.jsonl:2", "cut off"]),
    (GOOD.encode() + b"\n[1, 2]\n", ["bad.jsonl:2", "expected an object, got array"]),
    (GOOD.encode() + b"\nnull\n", ["bad.jsonl:2", "expected an object"]),
    (GOOD.encode() + b'\n{"txet": "x"}\n', ["bad.jsonl:2", "txet", "Did you mean"]),
    (b'{"text": 5}\n', ["bad.jsonl:1"]),
    (GOOD.encode() + b'\n{"messages": "\xff"}\n', ["bad.jsonl:2", "UTF-8", "0xff"]),
    (b'{"input": "\\ud800", "output": "x"}\n', ["bad.jsonl:1", "Unicode"]),
    (b"", ["bad.jsonl", "0 records"]),
    (b"\n\n\n", ["bad.jsonl", "0 records"]),
    (json.dumps({"messages": [ASK]}).encode(), ["bad.jsonl:1", "assistant"]),
    (json.dumps({"messages": [ASK, TELL, ASK]}).encode(), ["bad.jsonl:1", "assistant"]),
    (json.dumps({"messages": [ASK, {**TELL, "role": "asistant"}]}).encode(), ['Did you mean "assistant"']),
    (json.dumps({"messages": [ASK, {"role": "assistant", "content": 5}]}).encode(), ["bad.jsonl:1", "content"]),
    (json.dumps({"input": "a <|mdm_mask|> b", "output": "x"}).encode(), ["<|mdm_mask|>"]),
    (json.dumps({"input": "word " * 200, "output": "x"}).encode(), ["max_length"]),
    (b"\x00\x01\x02\xfe\xff" * 50, ["bad.jsonl:1"]),
]


@pytest.mark.parametrize(("content", "words"), DATA, ids=[words[-1] for _, words in DATA])
def test_data(refused: Refused, tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    message = refused(*sft(data="bad.jsonl"))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("nowhere.jsonl", ["nowhere.jsonl"]),
        ("@good.jsonl[trian:5]", ['"trian"', 'Did you mean "train"']),
        ("@good.jsonl[train]", ["train"]),
        ("@good.jsonl[test:200%]", ["200%"]),
        ("@good.jsonl[train:0]", ["train"]),
        ("@good.jsonl[train:1000,test:1000]", ["40"]),
        ("", ["dataset_args"]),
    ],
)
def test_dataset_grammar(refused: Refused, data: str, words: list[str]) -> None:
    message = refused(*sft(data=data))
    assert all(word in message for word in words), message


def broken(folder: Path, made: Path, **config: object) -> None:
    """A copy of the model with its configuration changed."""
    folder.mkdir()
    for path in (made / "model").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, **config}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "gpt2"}, ["gpt2", "llada"]),
        ({"_attn_implementation_internal": "evil/kernel"}, ["_attn_implementation_internal"]),
        ({"block_type": "sequential"}, ["block_type", "llama"]),
        ({"n_layers": 5}, ["missing"]),
        ({"d_model": 64}, ["shape"]),
        ({"n_heads": "four"}, ["four"]),
        ({"mask_token_id": 9999}, ["mask_token_id", "9999"]),
    ],
)
def test_configurations(
    refused: Refused, tmp_path: Path, made: Path, config: dict[str, object], words: list[str]
) -> None:
    broken(tmp_path / "broken", made, **config)
    message = refused("generate", "--model", "broken", "--prompt", "x")
    assert all(word in message for word in words), message


def test_checkpoints(refused: Refused, tmp_path: Path, made: Path) -> None:
    assert "config.json" in refused("generate", "--model", str(tmp_path), "--prompt", "x")
    assert "no folder" in refused("generate", "--model", "no/such-model", "--prompt", "x")
    assert "--from_scratch" in refused(*sft(model="@bare"))
    broken(tmp_path / "cut", made)
    weights = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "damaged or cut off" in refused("generate", "--model", "cut", "--prompt", "x")
    broken(tmp_path / "pickled", made)
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    assert "pickle" in refused("generate", "--model", "pickled", "--prompt", "x")
    broken(tmp_path / "mute", made)
    (tmp_path / "mute" / "tokenizer.json").unlink()
    assert "tokenizer" in refused("generate", "--model", "mute", "--prompt", "x")


def test_output_folders(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "is a file" in refused(*sft())
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    assert "folder of a model" in refused(*sft())


def test_another_run_in_the_folder(refused: Refused, made: Path, tmp_path: Path) -> None:
    here = [word.replace("@", f"{made}/") for word in sft("--report_to", "none")]
    assert main(here) == 0
    message = refused(*sft("--learning_rate", "0.5"))
    assert "different run" in message
    assert "learning_rate" in message
    assert "--fresh" in message
