"""Two processes learn what one learns, whatever divides their work, and leave what any number of them goes on from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import unmask
from tests.reliability.conftest import IS_WHOLE
from unmask.training.report import read_report

SCRIPT = Path(__file__).with_name("ranks.py")
# an adaptive optimizer makes a full step of a gradient of rounding errors; weights move by 1e-2 an update
ROUNDING = 1e-4
CASES: dict[str, list[str]] = {
    "masked": [],
    "block": ["--objective", "block", "--block_size", "16", "--padding", "block", "--packing", "true"],
    "lora": ["--lora", "true", "--r", "4", "--lora_alpha", "8", "--lora_dropout", "0"],
}
ENGINES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def alone(folder: Path, checkpoint: Path, conversations: Path) -> Callable[[str], Path]:
    """What one process makes of a case, trained once."""

    def made(case: str) -> Path:
        if not (folder / case).is_dir():
            finish([job(folder / case, "none", 1, case, 3, checkpoint, conversations)], folder)
        return folder / case

    return made


def job(output: Path, engine: str, ranks: int, case: str, updates: int, model: Path, data: Path) -> dict[str, Any]:
    """One run: three updates of eight samples, in forwards of two, with evaluation, samples and checkpoints."""
    argv = ["sft", "--model_name_or_path", str(model), "--dataset_args", f"{data}[train:33,test:7]"]
    argv += ["--max_length", "96", "--output_dir", str(output), "--max_steps", str(updates), "--seed", "3"]
    argv += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", str(4 // ranks)]
    argv += ["--learning_rate", "1e-2", "--lr_scheduler_type", "constant", "--warmup_steps", "0"]
    argv += ["--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "2", "--save_steps", "2"]
    argv += ["--per_device_eval_batch_size", "2", "--sample_prompts", "red blue", "--sample_new_tokens", "8"]
    stage = {"stage": int(engine[-1])} if engine.startswith("zero") else None
    if stage:
        auto = (
            "train_micro_batch_size_per_gpu",
            "train_batch_size",
            "gradient_accumulation_steps",
            "gradient_clipping",
        )
        argv += ["--deepspeed", json.dumps({"zero_optimization": stage, **dict.fromkeys(auto, "auto")})]
    argv += ["--fsdp", "full_shard"] if engine == "fsdp2" else []
    return {"name": str(output), "engine": engine, "ranks": ranks, "argv": [*argv, *CASES[case]]}


def finish(jobs: list[dict[str, Any]], folder: Path) -> None:
    """Run them, one after the other; all must come to their end."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # of DeepSpeed's compiler driver
    set_here = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PATH": path}
    command = [sys.executable, str(SCRIPT), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **set_here}, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    for each, status in zip(jobs, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert not any(status), Path(f"{each['name']}.0.log").read_text()[-3000:]


def difference(one: Path, other: Path) -> float:
    """The largest between two models' weights, or two adapters'."""
    name = next(name for name in ("model.safetensors", "adapter_model.safetensors") if (one / name).is_file())
    first, second = load_file(one / name), load_file(other / name)
    assert first.keys() == second.keys()
    return max(float((first[key].float() - second[key].float()).abs().max()) for key in first)


def told(output: Path) -> list[dict[str, float]]:
    names = ("step", "loss", "nll", "eval_nll", "eval_loss", "grad_norm", "learning_rate")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in names if name in line} for line in lines]


def assert_same(ours: Path, reference: Path) -> float:
    """Losses, evaluation, samples and weights; the largest difference of the weights."""
    for line, expected in zip(told(ours), told(reference), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    samples, expected = (read_report(folder / "report.html")["samples"] for folder in (ours, reference))
    assert [each["recording"]["rows"] for each in samples] == [each["recording"]["rows"] for each in expected]
    apart = difference(ours / "checkpoint-final", reference / "checkpoint-final")
    assert apart < ROUNDING
    return apart


def needs(engine: str) -> None:
    if engine.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip('needs DeepSpeed: pip install "unmask[deepspeed]"')


SHORT = [("fsdp2", "lora")]
WHOLE = [(engine, case) for engine in ENGINES for case in CASES if (engine, case) not in SHORT]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "case"), SHORT + (WHOLE if IS_WHOLE else []))
def test_two_processes_learn_what_one_does(
    folder: Path,
    alone: Callable[[str], Path],
    checkpoint: Path,
    conversations: Path,
    figure: Callable[[str], None],
    engine: str,
    case: str,
) -> None:
    needs(engine)
    reference, output = alone(case), folder / f"{engine}-{case}"
    finish([job(output, engine, 2, case, 3, checkpoint, conversations)], folder)
    apart = assert_same(output, reference)
    said = Path(f"{output}.0.log").read_text()
    name = {"ddp": "DDP", "fsdp2": "FSDP2"}.get(engine, f"DeepSpeed ZeRO-{engine[-1]}")
    assert f"engine: {name}, 2 processes (cpu), float32" in said
    assert "engine:" not in Path(f"{output}.1.log").read_text()
    lm = unmask.load(str(output / "checkpoint-final"))
    assert lm.generate(["red"], max_new_tokens=4, steps=2, block_size=4)[0].token_ids
    figure(f"    {name}, two processes, {case}: losses and samples of one; weights {apart:.1e} apart at most")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not IS_WHOLE, reason="whole in make reliability")
@pytest.mark.parametrize("case", ["masked", "lora"])
@pytest.mark.parametrize("engine", ENGINES)
def test_any_number_goes_on_from_its_checkpoints(
    folder: Path,
    alone: Callable[[str], Path],
    checkpoint: Path,
    conversations: Path,
    figure: Callable[[str], None],
    engine: str,
    case: str,
) -> None:
    needs(engine)
    reference, given = alone(case), (checkpoint, conversations)
    for later, ranks in ((engine, 2), ("none", 1)):
        output = folder / f"{engine}-{case}-then-{later}"
        finish([job(output, engine, 2, case, 2, *given), job(output, later, ranks, case, 3, *given)], folder)
        assert f"resuming from {output / 'checkpoint-2'}" in Path(f"{output}.0.log").read_text()
        apart = difference(output / "checkpoint-final", reference / "checkpoint-final")
        assert apart < ROUNDING
    output = folder / f"none-{case}-then-{engine}"
    finish([job(output, "none", 1, case, 2, *given), job(output, engine, 2, case, 3, *given)], folder)
    assert difference(output / "checkpoint-final", reference / "checkpoint-final") < ROUNDING
    figure(f"    {engine}, {case}: two processes and one go on from its checkpoint, and it from one process's")
