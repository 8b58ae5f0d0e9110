"""Launch configurations and the Slurm script."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unmask.errors import ConfigError
from unmask.training.launch import ALIASES, CONFIGS, ELASTIC, SCRIPTS, SLURM, config_path
from unmask.training.launch.__main__ import main


@pytest.mark.parametrize("name", [*CONFIGS, *ALIASES])
def test_accelerate_reads_every_configuration(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(config_path(name)))
    kind = str(config.distributed_type.value)
    assert kind == {"cpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(ALIASES.get(name, name), "DEEPSPEED")
    assert config.use_cpu == (name == "cpu")
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(name[-1])
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
    assert config.mixed_precision == "no"


def test_the_path_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deepspeed_zero2"]) == 0
    assert capsys.readouterr().out == f"{config_path('zero2')}\n"
    assert main(["slurm"]) == 0
    assert capsys.readouterr().out == f"{SLURM}\n"
    assert main(["elastic"]) == 0
    assert capsys.readouterr().out == f"{ELASTIC}\n"
    assert main(["zero22"]) == 2
    assert 'no launch configuration "zero22". Did you mean "zero2"?' in capsys.readouterr().err
    assert main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*CONFIGS, *SCRIPTS]


def test_a_file_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("distributed_type: 'NO'\n")
    assert config_path(str(tmp_path / "mine.yaml")) == tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match="no launch configuration"):
        config_path("theirs.yaml")


STUBS = {
    "srun": 'shift; exec "$@"',
    "scontrol": "echo node-a; seq -f node-%g 20000",
    "accelerate": 'printf "%s\\n" "$@" > "$TOLD"',
    "python": f'exec {shlex.quote(sys.executable)} "$@"',
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm's commands and the launcher only say what they were given."""
    for name, body in STUBS.items():
        file = tmp_path / name
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(0o755)
    slurm = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NODELIST": "node-[a-b]"}
    slurm |= {"SLURM_JOB_ID": "123", "SLURM_NODEID": "1", "TOLD": str(tmp_path / "told")}
    return {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def submit(arguments: list[str], cluster: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SLURM), *arguments], env=cluster, capture_output=True, text=True, check=False)


# The documented command, after `sbatch --nodes=2 --gres=gpu:8 scripts/train.slurm.sh`.
COMMAND = """--accelerate_config "deepspeed_zero2" --script_path "examples/llada/sft.py" \
    --script_args '--model_name_or_path "GSAI-ML/LLaDA-8B-Base" --dataset_args "allenai/tulu-3-sft-mixture[train:10000,test:1000]" --output_dir "models/a b[train:10000,test:1000]" --max_length 1024 --num_train_epochs 4'"""  # noqa: E501


def test_the_slurm_script_starts_one_launcher_per_node(cluster: dict[str, str]) -> None:
    done = submit(shlex.split(COMMAND), cluster)
    assert done.returncode == 0, done.stderr
    told = Path(cluster["TOLD"]).read_text().splitlines()
    start = told.index("-m")
    launcher = dict(zip(told[1:start:2], told[2:start:2], strict=True))
    assert told[0] == "launch"
    assert launcher == {
        "--config_file": str(config_path("zero2")),
        "--num_machines": "2",
        "--num_processes": "16",
        "--main_process_ip": "node-a",
        "--main_process_port": "20123",
        "--machine_rank": "1",
        "--rdzv_backend": "c10d",
    }
    assert told[start:] == [
        *("-m", "unmask", "sft", "--model_name_or_path", "GSAI-ML/LLaDA-8B-Base"),
        *("--dataset_args", "allenai/tulu-3-sft-mixture[train:10000,test:1000]"),
        *("--output_dir", "models/a b[train:10000,test:1000]", "--max_length", "1024", "--num_train_epochs", "4"),
    ]


def test_the_slurm_script_takes_the_verb_and_its_options_as_they_are(cluster: dict[str, str]) -> None:
    words = ["sft", "--dataset_args", "my data[train:10]+b*", "--script_path", "kept"]
    done = submit(["--accelerate_config", "zero3", *words], cluster)
    assert done.returncode == 0, done.stderr
    told = Path(cluster["TOLD"]).read_text().splitlines()
    assert told[told.index("-m") :] == ["-m", "unmask", *words]
    assert told[told.index("--config_file") + 1] == str(config_path("zero3"))


RANK = """
import os, signal, sys, time
def say(what): open(os.environ["TOLD"], "a").write(what + "\\n")
signal.signal(signal.SIGUSR1, lambda *_: (say("saved"), sys.exit(0)))
say("started")
while True: time.sleep(0.05)
"""


def test_a_job_near_its_limit_is_told_to_save_and_queued_again(cluster: dict[str, str], tmp_path: Path) -> None:
    """The launcher starts a process that saves when it is told to; it would itself die of the signal."""
    (tmp_path / "rank").write_text(RANK)
    launcher = f'{shlex.quote(sys.executable)} "{tmp_path}/rank" & wait $!; echo "rank $?" >> "$TOLD"; exit 7'
    (tmp_path / "accelerate").write_text(f"#!/usr/bin/env bash\n{launcher}\n")
    (tmp_path / "scontrol").write_text('#!/usr/bin/env bash\n[ "$1" = show ] && echo node-a || echo "$@" >> "$TOLD"\n')
    told = Path(cluster["TOLD"])
    job = subprocess.Popen(["bash", str(SLURM), "sft"], env=cluster, stdout=subprocess.PIPE, text=True)
    while not (told.is_file() and "started" in told.read_text()):
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=60)
    assert told.read_text().splitlines() == ["started", "saved", "rank 0", "requeue 123"]
    # the launcher's own status reaches Slurm
    assert job.returncode == 7
    assert "goes back into the queue" in said


def test_a_job_that_fails_is_not_queued_again(cluster: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "accelerate").write_text("#!/usr/bin/env bash\nexit 3\n")
    assert submit(["sft"], cluster).returncode == 3
    assert not Path(cluster["TOLD"]).exists()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_the_scripts_are_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    if checker := shutil.which("shellcheck"):
        assert subprocess.run([checker, str(script)], capture_output=True, text=True).stdout == ""


def elastic(arguments: list[str], cluster: dict[str, str], tmp_path: Path, ranks: str = "2") -> Any:
    """The script, with a torchrun that starts one process of so many, which says what it was given."""
    rank = f'WORLD_SIZE={ranks}; export WORLD_SIZE; while [ "$1" != --no_python ]; do shift; done; shift; exec "$@"'
    for name, body in (
        ("torchrun", f'echo "$@" > "$TOLD.torchrun"; {rank}'),
        ("python", 'printf "%s\\n" "$@" > "$TOLD"'),
    ):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return subprocess.run(["bash", str(ELASTIC), *arguments], env=cluster, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("ranks", "accumulation"), [("1", "16"), ("4", "4"), ("16", "1")])
def test_elastic_processes_keep_the_update(
    cluster: dict[str, str], tmp_path: Path, ranks: str, accumulation: str
) -> None:
    ours = ["--nodes", "1:4", "--gpus", "4", "--meet", "node-a:29400", "--samples", "32"]
    words = ["sft", "--per_device_train_batch_size", "2", "--output_dir", "a b"]
    done = elastic([*ours, *words], cluster, tmp_path, ranks)
    assert done.returncode == 0, done.stderr
    told = Path(cluster["TOLD"]).read_text().splitlines()
    assert told == ["-m", "unmask", *words, "--gradient_accumulation_steps", accumulation]
    launcher = Path(f"{cluster['TOLD']}.torchrun").read_text()
    assert "--nnodes 1:4 --nproc_per_node 4 --max_restarts 100" in launcher
    assert "--rdzv_endpoint node-a:29400" in launcher


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "1", "sft"], "needs --samples"),
        (["--gpus", "1", "--samples", "8"], "then sft or pretrain"),
        (["--sample", "8", "sft"], 'unknown option "--sample"'),
        (["--gpus", "1", "--samples", "24", "sft"], "--samples 24 is no multiple of 16"),
    ],
)
def test_the_elastic_script_refuses(
    cluster: dict[str, str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = elastic(arguments, cluster, tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not Path(cluster["TOLD"]).exists()


@pytest.mark.parametrize(
    ("path", "verb"), [("examples/llada/pt.py", "pretrain"), ("pretrain", "pretrain"), ("sft", "sft")]
)
def test_the_slurm_script_knows_both_verbs(cluster: dict[str, str], path: str, verb: str) -> None:
    done = submit(["--script_path", path, " "], cluster)
    assert done.returncode == 0, done.stderr
    assert Path(cluster["TOLD"]).read_text().splitlines()[-2:] == ["unmask", verb]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--script_pth", "sft"], 'unknown option "--script_pth"'),
        (["--script_path", "eval.py"], "is neither sft nor pretrain"),
        (["--accelerate_config", "zero9"], 'no launch configuration "zero9"'),
    ],
)
def test_the_slurm_script_refuses(cluster: dict[str, str], arguments: list[str], message: str) -> None:
    done = submit(arguments, cluster)
    assert done.returncode == 2
    assert message in done.stderr
    assert not Path(cluster["TOLD"]).exists()
