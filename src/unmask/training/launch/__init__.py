"""Configuration files for `accelerate launch`, scripts for Slurm and for machines that come and go, and where they lie.

`accelerate launch --config_file "$(python -m unmask.training.launch zero2)" -m unmask sft ...`
"""

from __future__ import annotations

from pathlib import Path

from unmask.errors import ConfigError, did_you_mean

HOME = Path(__file__).parent

# What each is for; the file is NAME.yaml.
CONFIGS = {
    "cpu": "one process on the CPU",
    "ddp": "a whole model on each GPU",
    "zero1": "DeepSpeed: the optimizer's state divided over the GPUs",
    "zero2": "DeepSpeed: gradients divided too",
    "zero3": "DeepSpeed: weights divided too",
    "fsdp2": "PyTorch's own: weights, gradients and optimizer divided over the GPUs",
}
ALIASES = {"deepspeed_zero1": "zero1", "deepspeed_zero2": "zero2", "deepspeed_zero3": "zero3", "fsdp": "fsdp2"}
SLURM = HOME / "train.slurm.sh"
ELASTIC = HOME / "elastic.sh"
SCRIPTS = {"slurm": SLURM, "elastic": ELASTIC}


def config_path(name: str) -> Path:
    """The file of a configuration; a path to a file of one's own is returned as it is.

    Raises:
        ConfigError: no such configuration.
    """
    if Path(name).is_file():
        return Path(name)
    plain = name.removesuffix(".yaml")
    plain = ALIASES.get(plain, plain)
    if plain not in CONFIGS:
        names = [*CONFIGS, *ALIASES]
        raise ConfigError(
            f'no launch configuration "{name}".{did_you_mean(name, names)} Give one of {", ".join(CONFIGS)}, or a file.'
        )
    return HOME / f"{plain}.yaml"
