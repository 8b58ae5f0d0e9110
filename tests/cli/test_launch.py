"""Launch configurations and the Slurm script."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.errors import ConfigError
from unmask.training.launch import ALIASES, CONFIGS, SLURM, config_path
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
    assert main(["zero22"]) == 2
    assert 'no launch configuration "zero22". Did you mean "zero2"?' in capsys.readouterr().err
    assert main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CONFIGS)


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
