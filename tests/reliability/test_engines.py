"""Two processes learn what one learns, whatever divides their work, and leave what any number of them goes on from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import unmask
from tests import tiny
from tests.reliability.conftest import IS_WHOLE
from tests.reliability.ports import free_port
from unmask.training.launch import config_path
from unmask.training.report import read_report

SCRIPT = Path(__file__).with_name("ranks.py")
# an adaptive optimizer makes a full step of a gradient of rounding errors; weights move by 1e-2 an update
ROUNDING = 1e-4
CASES: dict[str, list[str]] = {
    "masked": [],
    "block": ["--objective", "block", "--block_size", "16", "--padding", "block", "--packing", "true"],
    "lora": ["--lora", "true", "--r", "4", "--lora_alpha", "8", "--lora_dropout", "0"],
}
# the largest bound wins, which is not the last
BEST = ["--load_best_model_at_end", "true", "--metric_for_best_model", "nll", "--greater_is_better", "true"]
BEST += ["--eval_steps", "1", "--save_steps", "1"]
CASES |= {"best": [*BEST, "--freeze", "norms"], "best-lora": [*CASES["lora"], *BEST]}
# layers in few bits take a multiple of 64 values: these have a base of their own
WIDE = {"d_model": 64, "mlp_hidden_size": 128, "n_heads": 4, "n_kv_heads": 2}
CASES["broken"] = []
CASES |= {f"{bits}bit": [*CASES["lora"], f"--load_in_{bits}bit", "true"] for bits in (4, 8)}
TOLD = {"ddp": "DDP", "fsdp2": "FSDP2", **{f"zero{stage}": f"DeepSpeed ZeRO-{stage}" for stage in (1, 2, 3)}}
ENGINES = tuple(TOLD)
# seconds for all runs, which the first test waits for
LIMIT = 3600 if IS_WHOLE else 900
# one worker of pytest does all runs, once
pytestmark = pytest.mark.xdist_group("engines")


@dataclass(frozen=True)
class Run:
    """What processes do: train a case under an engine so far, perhaps going on from an earlier run.

    Attributes:
        engine: one of `ENGINES`, or none. ranks: processes. case: of `CASES`. updates: trained until then.
        after: what was run before in that folder.
    """

    engine: str
    ranks: int
    case: str
    updates: int = 3
    after: Run | None = None

    @property
    def name(self) -> str:
        return f"{self.after.name + '-' if self.after else ''}{self.engine}{self.ranks}-{self.case}-{self.updates}"


def reference(case: str) -> Run:
    return Run("none", 1, case)


def started(engine: str, case: str) -> Run:
    return Run(engine, 1 if engine == "none" else 2, case, updates=2)


def gone_on_with(engine: str, case: str) -> list[Run]:
    """From its checkpoint with two processes and with one, and from one process's with two."""
    own, other = started(engine, case), started("none", case)
    return [Run(engine, 2, case, after=own), Run("none", 1, case, after=own), Run(engine, 2, case, after=other)]


def three(engine: str) -> Run:
    """Three processes, interrupted once, but for DDP."""
    return Run(engine, 3, "lora", after=None if engine == "ddp" else Run(engine, 3, "lora", updates=2))


# in the short form only what no other test of `make test` does
COMPARED = [("fsdp2", "lora")]
RESUMED: list[tuple[str, str]] = []
LEFT = [("fsdp2", "best-lora")]
BROKEN: list[str] = []
# three make no equal parts of most weights
UNEVEN: list[str] = []
if IS_WHOLE:
    COMPARED = [(engine, case) for engine in ENGINES for case in ("masked", "block", "lora", "4bit")]
    COMPARED += [("fsdp2", "8bit"), ("zero3", "8bit")]
    RESUMED = [(engine, case) for engine in ENGINES for case in ("masked", "lora")]
    RESUMED += [("fsdp2", "4bit"), ("zero3", "4bit")]
    LEFT = [(engine, case) for engine in ENGINES for case in ("best", "best-lora")]
    BROKEN = ["ddp", "fsdp2"]
    UNEVEN = ["fsdp2", "zero2", "zero3"]


def wanted() -> list[Run]:
    """All runs of all tests, each once, those before others first."""
    runs = [reference(case) for _, case in COMPARED] + [Run(engine, 2, case) for engine, case in [*COMPARED, *LEFT]]
    for pair in RESUMED:
        runs += [started("none", pair[1]), started(*pair), *gone_on_with(*pair)]
    runs += [reference("broken"), *(Run(engine, 2, "broken") for engine in BROKEN)] if BROKEN else []
    runs += [run for engine in UNEVEN for run in (three("ddp"), three(engine).after, three(engine)) if run is not None]
    return [run for run in dict.fromkeys(runs) if lacking(run.engine, run.case) is None]


def lacking(engine: str, case: str) -> str | None:
    """Why something cannot be run here."""
    needed = {"deepspeed": engine.startswith("zero"), "bitsandbytes": case.endswith("bit")}
    extras = {"deepspeed": "deepspeed", "bitsandbytes": "quant"}
    missing = next((name for name, is_needed in needed.items() if is_needed and find_spec(name) is None), None)
    return missing and f'needs {missing}: pip install "unmask[{extras[missing]}]"'


@dataclass(frozen=True)
class Ended:
    """The folder of the runs and how each rank of each ended."""

    folder: Path
    status: dict[str, list[int]]

    def at(self, run: Run) -> Path:
        """Where a run that came to its end is."""
        output = self.folder / run.name
        assert not any(self.status[run.name]), Path(f"{output}.0.log").read_text()[-3000:]
        return output


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, conversations: Path) -> Ended:
    folder, runs = tmp_path_factory.mktemp("engines"), wanted()
    wide = tiny.write_checkpoint(folder / "wide", **WIDE)
    jobs = [job(run, folder, wide if run.case.endswith("bit") else checkpoint, conversations) for run in runs]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # of what DeepSpeed compiles with
    set_here = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PATH": path}
    command = [sys.executable, str(SCRIPT), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **set_here}, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    status = json.loads(done.stdout.splitlines()[-1])
    return Ended(folder, {run.name: each for run, each in zip(runs, status, strict=True)})


def job(run: Run, folder: Path, model: Path, data: Path) -> dict[str, Any]:
    """For the script: updates of eight samples, in forwards of two, with evaluation, samples and checkpoints."""
    output, engine = folder / run.name, run.engine
    argv = ["sft", "--model_name_or_path", str(model), "--dataset_args", f"{data}[train:33,test:7]"]
    argv += ["--max_length", "96", "--output_dir", str(output), "--max_steps", str(run.updates), "--seed", "3"]
    argv += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", str(4 // run.ranks)]
    argv += ["--learning_rate", "1e-2", "--lr_scheduler_type", "constant", "--warmup_steps", "0"]
    argv += ["--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "2", "--save_steps", "2"]
    argv += ["--per_device_eval_batch_size", "2", "--sample_prompts", "red blue", "--sample_new_tokens", "8"]
    if engine.startswith("zero"):
        auto = (
            "train_micro_batch_size_per_gpu",
            "train_batch_size",
            "gradient_accumulation_steps",
            "gradient_clipping",
        )
        zero = {"zero_optimization": {"stage": int(engine[-1])}, **dict.fromkeys(auto, "auto")}
        argv += ["--deepspeed", json.dumps(zero)]
    argv += ["--fsdp", "full_shard"] if engine == "fsdp2" else []
    after = str(folder / run.after.name) if run.after else None
    told = {"output": str(output), "engine": engine, "ranks": run.ranks, "after": after}
    told["broken"] = run.ranks - 1 if run.case == "broken" else None
    return {**told, "argv": [*argv, *CASES[run.case]]}


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


def samples(output: Path) -> list[Any]:
    """What the model wrote while it learned."""
    return [each["recording"]["rows"] for each in read_report(output / "report.html")["samples"]]


def skip_without_what_it_needs(engine: str, case: str) -> None:
    if reason := lacking(engine, case):
        pytest.skip(reason)


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize(("engine", "case"), COMPARED)
def test_two_processes_learn_what_one_does(ended: Ended, figure: Callable[[str], None], engine: str, case: str) -> None:
    skip_without_what_it_needs(engine, case)
    output, expected = ended.at(Run(engine, 2, case)), ended.at(reference(case))
    for line, other in zip(told(output), told(expected), strict=True):
        assert line == pytest.approx(other, rel=1e-4)
    assert samples(output) == samples(expected)
    apart = difference(output / "checkpoint-final", expected / "checkpoint-final")
    assert apart < ROUNDING
    likelihoods = [
        unmask.load(str(folder / "checkpoint-final")).log_likelihood("red", "blue", samples=2)
        for folder in (output, expected)
    ]
    assert likelihoods[0] == pytest.approx(likelihoods[1], rel=1e-3)
    assert f"engine: {TOLD[engine]}, 2 processes (cpu), float32" in Path(f"{output}.0.log").read_text()
    assert "engine:" not in Path(f"{output}.1.log").read_text()
    figure(f"    {TOLD[engine]}, two processes, {case}: losses and samples of one; weights at most {apart:.0e} apart")


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize(("engine", "case"), RESUMED)
def test_any_number_goes_on_from_a_checkpoint(
    ended: Ended, figure: Callable[[str], None], engine: str, case: str
) -> None:
    skip_without_what_it_needs(engine, case)
    expected = ended.at(reference(case)) / "checkpoint-final"
    for run in gone_on_with(engine, case):
        assert run.after is not None and ended.at(run.after)
        output = ended.at(run)
        assert f"resuming from {output / 'checkpoint-2'}" in Path(f"{output}.0.log").read_text()
        assert difference(output / "checkpoint-final", expected) < ROUNDING
    figure(f"    {TOLD[engine]}, {case}: two processes and one go on from its checkpoint, and it from one process's")


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize(("engine", "case"), LEFT)
def test_the_best_checkpoint_is_what_is_left(ended: Ended, engine: str, case: str) -> None:
    skip_without_what_it_needs(engine, case)
    output = ended.at(Run(engine, 2, case))
    best = json.loads((output / "checkpoint-3" / "trainer_state.json").read_text())["best_global_step"]
    assert best < 3
    assert difference(output / "checkpoint-final", output / f"checkpoint-{best}") == 0
    assert difference(output / "checkpoint-final", output / "checkpoint-3") > 10 * ROUNDING


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("engine", UNEVEN)
def test_parts_need_not_be_equal(ended: Ended, engine: str) -> None:
    skip_without_what_it_needs(engine, "lora")
    output, expected = ended.at(three(engine)), ended.at(three("ddp"))
    assert difference(output / "checkpoint-final", expected / "checkpoint-final") < ROUNDING


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("engine", BROKEN)
def test_one_process_without_numbers_spoils_no_weights(
    ended: Ended, figure: Callable[[str], None], engine: str
) -> None:
    output, expected = ended.at(Run(engine, 2, "broken")), ended.at(reference("broken"))
    for folder in (output, expected):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [(line["step"], line.get("skipped_updates")) for line in lines if "loss" in line] == [(1, None), (3, 1)]
    assert difference(output / "checkpoint-final", expected / "checkpoint-final") < ROUNDING
    figure(f"R14 {TOLD[engine]}: a gradient that is no number in one of two processes reached no weights")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not IS_WHOLE, reason="whole in make reliability")
@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        (["--config_file", str(config_path("ddp")), "--num_processes", "2"], None),
        (["--config_file", str(config_path("fsdp2")), "--num_processes", "2"], "On CPUs accelerate does not divide"),
        (["--cpu", "--num_processes", "2"], "asked for several processes and started one"),
    ],
    ids=["ddp", "fsdp2", "cpu"],
)
def test_accelerate_starts_what_it_says_or_nothing(
    checkpoint: Path, conversations: Path, tmp_path: Path, launcher: list[str], message: str | None
) -> None:
    told = job(Run("ddp", 2, "masked", updates=1), tmp_path, checkpoint, conversations)
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "--main_process_port", str(free_port())]
    done = subprocess.run(
        [*command, "-m", "unmask", *told["argv"]],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.returncode == 0) == (message is None), done.stderr[-3000:]
    if message is None:
        assert "engine: DDP, 2 processes (cpu), float32" in done.stdout
    else:
        assert message in done.stderr
        assert not Path(told["output"]).exists()
