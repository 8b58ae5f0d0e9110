"""A run that is not divided the way it was asked to be ends before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from tests.models import tiny
from unmask.cli.main import main
from unmask.errors import ConfigError, ResourceError
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.checkpoints import load_model
from unmask.registry import FAMILIES
from unmask.training import engine
from unmask.training.arguments import Settings
from unmask.training.engine import Engine, asked_for, check, check_wrapped

TORCHRUN = {"WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2"}
ZERO2 = {"zero_optimization": {"stage": 2}}
ACCELERATE = {**TORCHRUN, "ACCELERATE_MIXED_PRECISION": "no"}


@pytest.fixture(autouse=True)
def deepspeed_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: object())


def settings(**trainer: Any) -> Settings:
    return Settings(trainer=trainer)


@pytest.mark.parametrize(
    ("environment", "trainer", "expected"),
    [
        ({}, {}, Engine("none", 1, 1)),
        ({"WORLD_SIZE": "1"}, {}, Engine("none", 1, 1)),
        (TORCHRUN, {}, Engine("ddp", 8, 2)),
        (TORCHRUN, {"fsdp": "full_shard"}, Engine("fsdp", 8, 2)),
        ({**ACCELERATE, "ACCELERATE_USE_FSDP": "true"}, {}, Engine("fsdp", 8, 2)),
        ({**ACCELERATE, "ACCELERATE_USE_DEEPSPEED": "true"}, {}, Engine("zero2", 8, 2)),
        (
            {**ACCELERATE, "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
            {},
            Engine("zero3", 8, 2),
        ),
        (TORCHRUN, {"deepspeed": {"zero_optimization": {"stage": 1}}}, Engine("zero1", 8, 2)),
        # Slurm's variables inside one of torchrun's processes
        ({**TORCHRUN, "SLURM_STEP_NUM_TASKS": "2"}, {}, Engine("ddp", 8, 2)),
    ],
)
def test_what_is_asked_for(environment: dict[str, str], trainer: dict[str, Any], expected: Engine) -> None:
    assert asked_for(settings(**trainer), environment) == expected


def test_the_stage_is_read_from_deepspeeds_own_file(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 3}}')
    assert asked_for(settings(deepspeed=str(file)), TORCHRUN).sharing == "zero3"
    by_launcher = {**ACCELERATE, "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    assert asked_for(settings(), by_launcher).sharing == "zero3"


REFUSED = [
    # accelerate launch --cpu --num_processes 2, and its YAML with use_cpu, start one process and set these
    ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, {}, "asked for several processes and started one"),
    ({"SLURM_STEP_NUM_TASKS": "8"}, {}, "8 processes were started .* each would train alone"),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, {}, "each would train alone"),
    ({**ACCELERATE, "ACCELERATE_USE_FSDP": "true"}, {"deepspeed": ZERO2}, "FSDP and DeepSpeed exclude each other"),
    (TORCHRUN, {"deepspeed": {"zero_optimization": {"stage": 0}}}, "ZeRO stage 0"),
    (TORCHRUN, {"deepspeed": {"bf16": {"enabled": True}}}, "ZeRO stage 0"),
    (TORCHRUN, {"deepspeed": "absent.json"}, "absent.json cannot be read"),
]


@pytest.mark.parametrize(("environment", "trainer", "message"), REFUSED)
def test_what_cannot_be_asked_for(environment: dict[str, str], trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked_for(settings(**trainer), environment)


def test_deepspeed_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"unmask\[deepspeed\]"):
        asked_for(settings(deepspeed=ZERO2), TORCHRUN)


def accelerator(kind: DistributedType, processes: int, device: str = "cuda", **state: Any) -> Any:
    return SimpleNamespace(
        distributed_type=kind,
        num_processes=processes,
        device=SimpleNamespace(type=device),
        state=SimpleNamespace(**{"fsdp_plugin": None, "deepspeed_plugin": None, **state}),
    )


def deepspeed(**config: Any) -> Any:
    return SimpleNamespace(hf_ds_config=SimpleNamespace(config=config))


ARGS = SimpleNamespace(max_grad_norm=1.0)
TWO = DistributedType


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (Engine(), accelerator(TWO.NO, 1, "cpu")),
        # torchrun --nproc_per_node 1
        (Engine(), accelerator(TWO.MULTI_GPU, 1)),
        (Engine("ddp", 2), accelerator(TWO.MULTI_CPU, 2, "cpu")),
        (Engine("ddp", 8, 2), accelerator(TWO.MULTI_GPU, 8)),
        (Engine("fsdp", 8), accelerator(TWO.FSDP, 8, fsdp_plugin=SimpleNamespace(fsdp_version=2))),
        (
            Engine("zero3", 8),
            accelerator(
                TWO.DEEPSPEED, 8, deepspeed_plugin=deepspeed(zero_optimization={"stage": 3}, gradient_clipping="auto")
            ),
        ),
        (
            Engine("zero1", 8),
            accelerator(
                TWO.DEEPSPEED, 8, deepspeed_plugin=deepspeed(zero_optimization={"stage": 1}, gradient_clipping=1.0)
            ),
        ),
    ],
)
def test_what_was_asked_for_may_begin(asked: Engine, found: Any) -> None:
    check(asked, ARGS, found)


@pytest.mark.parametrize(
    ("asked", "found", "message"),
    [
        # each of these goes on quietly in accelerate or transformers
        (Engine("fsdp", 2), accelerator(TWO.NO, 1, "cpu"), "FSDP2 over 2 processes was asked for.*On CPUs"),
        (Engine("fsdp", 2), accelerator(TWO.MULTI_CPU, 2, "cpu"), "accelerate made 2 of type MULTI_CPU on cpu"),
        (Engine("zero2", 2), accelerator(TWO.MULTI_CPU, 2, "cpu"), "DS_ACCELERATOR=cpu"),
        (Engine("ddp", 2), accelerator(TWO.NO, 1, "cpu"), "DDP over 2 processes .* made 1 of type NO"),
        (Engine("none", 1), accelerator(TWO.MULTI_GPU, 2), "one process was asked for, but accelerate made 2"),
        (Engine("ddp", 8), accelerator(TWO.FSDP, 8), "Give the engine to the launcher"),
        (
            Engine("fsdp", 8),
            accelerator(TWO.FSDP, 8, fsdp_plugin=SimpleNamespace(fsdp_version=1)),
            "Set fsdp_version: 2",
        ),
        (
            Engine("zero2", 8),
            accelerator(TWO.DEEPSPEED, 8, deepspeed_plugin=deepspeed(zero_optimization={"stage": 3})),
            "ZeRO-2 was asked for, but DeepSpeed was given stage 3",
        ),
        (
            Engine("zero2", 8),
            accelerator(TWO.DEEPSPEED, 8, deepspeed_plugin=deepspeed(zero_optimization={"stage": 2})),
            "max_grad_norm is 1, but DeepSpeed would clip gradients at 0",
        ),
        (
            Engine("zero2", 8),
            accelerator(
                TWO.DEEPSPEED, 8, deepspeed_plugin=deepspeed(zero_optimization={"stage": 2}, optimizer={"type": "Adam"})
            ),
            'section "optimizer", which would replace what optim says',
        ),
    ],
)
def test_anything_else_may_not(asked: Engine, found: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(asked, ARGS, found)


class DeepSpeedEngine:
    def zero_optimization_stage(self) -> int:
        return 1


class DistributedDataParallel: ...


def test_the_wrapper_is_looked_at_too() -> None:
    check_wrapped(Engine("none"), object())
    check_wrapped(Engine("ddp", 2), DistributedDataParallel())
    check_wrapped(Engine("zero1", 2), DeepSpeedEngine())
    for asked, model, message in (
        (Engine("ddp", 2), object(), "DDP over 2 processes was asked for, but the model is a object"),
        (Engine("fsdp", 2), DistributedDataParallel(), "the model is a DistributedDataParallel"),
        (Engine("zero3", 2), DeepSpeedEngine(), "at stage 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_wrapped(asked, model)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (Engine(), "engine: one process on cpu, float32"),
        (Engine("ddp", 2), "engine: DDP, 2 processes (cpu), float32; each holds the whole model"),
        (
            Engine("fsdp", 16, 2),
            "engine: FSDP2, 16 processes (cpu on 2 nodes), float32; weights, gradients and optimizer are divided",
        ),
        (Engine("zero1", 1), "engine: DeepSpeed ZeRO-1, 1 process (cpu), float32; the optimizer is divided"),
    ],
)
def test_the_line(found: Engine, line: str) -> None:
    assert found.described("cpu", "no") == line


@pytest.mark.parametrize(
    "environment",
    [
        {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "no"},
        {"MASTER_PORT": "29500", "ACCELERATE_MIXED_PRECISION": "no"},
    ],
    ids=["fsdp in one process", "one process of several"],
)
def test_the_command_ends_and_leaves_nothing(
    environment: dict[str, str],
    checkpoint: Path,
    conversations: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = ["--model_name_or_path", str(checkpoint), "--dataset_args", str(conversations), "--max_length", "96"]
    assert main(["sft", *told, "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]) == 2
    said = capsys.readouterr().err
    assert "asked for" in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


LORA = {"plain": {}, "experts": {"target_modules": "experts"}, "dora": {"use_dora": True}, "biases": {"bias": "all"}}
LORA["whole layers"] = {"modules_to_save": "head,embed"}
FEW = [(family, None, few) for family in ("llada", "llada_moe", "llada2", "dream") for few in (0, 1)]


@pytest.mark.parametrize(
    ("family", "adapter", "predicted"),
    [*FEW, *(("llada_moe" if kind == "experts" else "dream", kind, 0) for kind in LORA)],
)
def test_every_trained_weight_takes_part_in_every_forward(
    tmp_path: Path, family: str, adapter: str | None, predicted: int
) -> None:
    """Otherwise DDP would have to look for idle ones: a row may have nothing to predict, an expert no token."""
    model = tiny.build(tmp_path, FAMILIES.get(family))
    if adapter is not None:
        attach_lora(model, LoraSettings(r=2, **LORA[adapter]))
    # as few tokens as there can be, so that most experts get none
    tokens_BL = torch.full((1, 2), 5)
    at_n = torch.arange(predicted) + 1
    model.train()(tokens_BL, logits_at=at_n, targets=torch.full((predicted,), 3)).nll.sum().backward()
    idle = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert idle == []


def test_layers_in_few_bits_are_not_divided(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folder = tiny.checkpoint(tmp_path, d_model=64, mlp_hidden_size=128)
    plugin, model = SimpleNamespace(), load_model(folder)
    assert engine.leave_whole(plugin, model) is None and not vars(plugin)
    model = load_model(folder, quantization="4bit")
    attach_lora(model, LoraSettings(r=2))
    layers = 7 * model.facts.shape.layers
    assert f"{layers} layers in few bits are not divided" in str(engine.leave_whole(plugin, model))
    assert len(plugin.ignored_modules) == layers
    assert not any(weight.requires_grad for layer in plugin.ignored_modules for weight in layer.parameters())
