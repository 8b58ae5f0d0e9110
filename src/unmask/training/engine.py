"""How a run is divided over processes: what was asked for, what came of it, and one line about it.

accelerate and transformers quietly do less than they were asked to where they cannot do it: one process instead of
several, copies instead of shards, no clipping. A run that is not what was asked for ends here, before anything is
written. Knows launchers and wrappers, no model and no data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError, ResourceError
from unmask.models.quantized import is_quantized
from unmask.training.arguments import Settings

# what each process holds a part of, and what all hold whole
_HELD = {
    "none": "",
    "ddp": "each holds the whole model",
    "fsdp": "weights, gradients and optimizer are divided",
    "zero1": "the optimizer is divided",
    "zero2": "gradients and optimizer are divided",
    "zero3": "weights, gradients and optimizer are divided",
}
_NAMES = {"ddp": "DDP", "fsdp": "FSDP2"}
# variables by which Slurm and MPI say how many processes they started, where no launcher of PyTorch's was between
_STARTED_BY = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_TORCHRUN = "torchrun --nproc_per_node N -m unmask ..."


@dataclass(frozen=True)
class Engine:
    """A way of dividing a run.

    Attributes:
        sharing: none, ddp, fsdp or zero1 to zero3. ranks: processes. nodes: machines that they run on.
    """

    sharing: str = "none"
    ranks: int = 1
    nodes: int = 1

    @property
    def is_deepspeed(self) -> bool:
        return self.sharing.startswith("zero")

    @property
    def is_divided(self) -> bool:
        """Whether a process lacks part of the weights, or of what belongs to them."""
        return self.sharing not in ("none", "ddp")

    @property
    def name(self) -> str:
        """For people."""
        return _NAMES.get(self.sharing) or (
            f"DeepSpeed ZeRO-{self.sharing[-1]}" if self.is_deepspeed else "one process"
        )

    def described(self, device: str, precision: str) -> str:
        """One line. `device` is that of one process, `precision` accelerate's word for that of forwards."""
        precision = "float32" if precision == "no" else precision
        if self.sharing == "none":
            return f"engine: one process on {device}, {precision}"
        many = "1 process" if self.ranks == 1 else f"{self.ranks} processes"
        where = f"{device} on {self.nodes} nodes" if self.nodes > 1 else device
        return f"engine: {self.name}, {many} ({where}), {precision}; {_HELD[self.sharing]}"


def asked_for(settings: Settings, environment: Mapping[str, str] | None = None) -> Engine:
    """What the settings and the launcher ask for.

    Raises:
        ConfigError: they contradict each other, or the launcher started something that will not work together.
        ResourceError: DeepSpeed is asked for and not installed.
    """
    environment = os.environ if environment is None else environment
    ranks = int(environment.get("WORLD_SIZE", "1"))
    if "WORLD_SIZE" not in environment:
        _refuse_strangers(environment)
    fsdp = _is_on(environment, "ACCELERATE_USE_FSDP") or bool(settings.trainer.get("fsdp"))
    deepspeed = _is_on(environment, "ACCELERATE_USE_DEEPSPEED") or bool(settings.trainer.get("deepspeed"))
    if fsdp and deepspeed:
        raise ConfigError("FSDP and DeepSpeed exclude each other, and both are asked for. Leave one of them out.")
    nodes = int(environment.get("GROUP_WORLD_SIZE", "1"))
    if deepspeed and find_spec("deepspeed") is None:
        raise ResourceError('DeepSpeed is asked for and not installed. Install it: pip install "unmask[deepspeed]"')
    if deepspeed:
        stage = _stage(settings, environment)
        if stage not in (1, 2, 3):
            raise ConfigError(f"DeepSpeed is asked for at ZeRO stage {stage}. Use 1, 2 or 3, or leave DeepSpeed out.")
        return Engine(f"zero{stage}", ranks, nodes)
    return Engine("fsdp" if fsdp else "ddp" if ranks > 1 else "none", ranks, nodes)


def _refuse_strangers(environment: Mapping[str, str]) -> None:
    """Processes that do not know of each other would each train alone, into the same folder."""
    for name in _STARTED_BY:
        if int(environment.get(name) or "1") > 1:
            raise ConfigError(
                f"{environment[name]} processes were started ({name}), but none knows of the others, so each would "
                f"train alone. Start one launcher per machine instead: {_TORCHRUN}"
            )
    # what accelerate sets where it was asked for several processes and starts one
    if "MASTER_PORT" in environment and "ACCELERATE_MIXED_PRECISION" in environment:
        raise ConfigError(
            "accelerate launch was asked for several processes and started one: on CPUs it starts no more without MPI. "
            f"Use {_TORCHRUN}"
        )


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("true", "1", "yes")


def _stage(settings: Settings, environment: Mapping[str, str]) -> int:
    """DeepSpeed's ZeRO stage, from the run's own configuration, else the launcher's."""
    given = settings.trainer.get("deepspeed") or environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if not given or given == "none":
        return int(environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
    if not isinstance(given, dict):
        given = _read(Path(str(given)))
    zero = given.get("zero_optimization", {})
    return int(zero.get("stage", 0)) if isinstance(zero, dict) else 0


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise ConfigError(f"deepspeed: {file} cannot be read: {reason}. Give a DeepSpeed configuration.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"deepspeed: {file} holds no JSON object. Give a DeepSpeed configuration.")
    return found


def check(asked: Engine, args: Any, accelerator: Any) -> None:
    """Compare with what the libraries made of it, before the model is wrapped.

    Args:
        asked: for. args: transformers' arguments. accelerator: accelerate's.

    Raises:
        ConfigError: it is not what was asked for.
    """
    kind = str(accelerator.distributed_type.value)
    found = {"NO": "none", "FSDP": "fsdp", "DEEPSPEED": "zero"}.get(kind, "ddp")
    if found == "ddp" and accelerator.num_processes == 1:
        found = "none"  # a single process of a launcher's
    if found != asked.sharing.rstrip("0123") or accelerator.num_processes != asked.ranks:
        raise ConfigError(_unlike(asked, kind, accelerator))
    if asked.sharing == "fsdp":
        _check_fsdp(accelerator.state.fsdp_plugin)
    if asked.is_deepspeed:
        _check_deepspeed(asked, args, accelerator.state.deepspeed_plugin)


def _unlike(asked: Engine, kind: str, accelerator: Any) -> str:
    """What was asked for, what there is, and what to do about it."""
    many = "one process" if asked.sharing == "none" else f"{asked.name} over {asked.ranks} processes"
    wanted = (
        f"{many} was asked for, but accelerate made {accelerator.num_processes} of type {kind} on "
        f"{accelerator.device.type}. "
    )
    if accelerator.device.type == "cpu" and asked.is_divided:
        return (
            f"{wanted}On CPUs accelerate does not divide weights: use DDP ({_TORCHRUN}), or DeepSpeed with its own "
            "configuration (--deepspeed FILE and DS_ACCELERATOR=cpu)."
        )
    if accelerator.num_processes != asked.ranks:
        return f"{wanted}Start all processes with one launcher per machine: {_TORCHRUN}"
    return f"{wanted}Give the engine to the launcher (accelerate launch --config_file FILE) or to the run, not to both."


def _check_fsdp(plugin: Any) -> None:
    if plugin is None or plugin.fsdp_version != 2:
        raise ConfigError(
            "FSDP's first version is asked for; checkpoints are written and read under the second. Set fsdp_version: 2 "
            "in the configuration of accelerate."
        )


def _check_deepspeed(asked: Engine, args: Any, plugin: Any) -> None:
    config = plugin.hf_ds_config.config
    stage = int(config.get("zero_optimization", {}).get("stage", 0))
    if stage != int(asked.sharing[-1]):
        raise ConfigError(f"{asked.name} was asked for, but DeepSpeed was given stage {stage}. Say it in one place.")
    for name, ours in (("optimizer", "optim"), ("scheduler", "lr_scheduler_type")):
        if name in config:
            raise ConfigError(
                f'the configuration of DeepSpeed has a section "{name}", which would replace what {ours} says. '
                "Leave it out."
            )
    clipping = config.get("gradient_clipping", 0.0)
    if clipping != "auto" and float(clipping or 0.0) != float(args.max_grad_norm or 0.0):
        raise ConfigError(
            f"max_grad_norm is {args.max_grad_norm:g}, but DeepSpeed would clip gradients at {float(clipping or 0):g}. "
            'Set gradient_clipping to "auto" in its configuration, or both to the same.'
        )


def leave_whole(plugin: Any, model: Any) -> str | None:
    """Keep the layers of a frozen base that is held in few bits out of what FSDP divides: parts of them mean nothing.

    Args:
        plugin: accelerate's. model: not yet wrapped.

    Returns:
        A line about it for the user, where there are such layers.
    """
    held = [layer for layer in model.modules() if is_quantized(layer)]
    if not held:
        return None
    plugin.ignored_modules = held
    return f"the base's {len(held)} layers in few bits are not divided: each process holds them whole"


def check_wrapped(asked: Engine, model: Any) -> None:
    """Compare with what the model became.

    Raises:
        ConfigError: it is not wrapped the way that was asked for.
    """
    kinds = {kind.__name__ for kind in type(model).__mro__}
    wanted = {"ddp": "DistributedDataParallel", "fsdp": "FSDPModule"}.get(asked.sharing)
    wanted = "DeepSpeedEngine" if asked.is_deepspeed else wanted
    stage = model.zero_optimization_stage() if asked.is_deepspeed and wanted in kinds else None
    if (wanted is not None and wanted not in kinds) or (stage is not None and stage != int(asked.sharing[-1])):
        raise ConfigError(
            f"{asked.name} over {asked.ranks} processes was asked for, but the model is a {type(model).__name__}"
            f"{'' if stage is None else f' at stage {stage}'}. Its gradients would not be shared as asked."
        )
