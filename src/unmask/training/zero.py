"""Weights and optimizer of a model that DeepSpeed divides (ZeRO 1 to 3), as whole tensors and back.

What is gathered has the form that other runs have, so a checkpoint may be gone on with by any number of processes and
under any engine. Every process must call these functions: each tensor is put together by all of them. The masters, in
float32, are what counts; the copies that DeepSpeed computes with may be rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# where DeepSpeed's optimizers keep the flat masters of this process: stages 1 and 2, stage 3, stage 1 in bf16
_FLAT = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition")


def gather_weights(model: nn.Module, *, only_trained: bool) -> dict[str, Tensor]:
    """name -> tensor on the CPU, float32 where it is trained; empty but in the first process.

    Args:
        model: inside DeepSpeed's engine. only_trained: leave out what is frozen.
    """
    found: dict[str, Tensor] = {}
    whole_master = import_module("deepspeed.utils").safe_get_full_fp32_param
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            _keep(found, name, whole_master(weight))
        elif not only_trained:
            with _whole(weight):
                _keep(found, name, weight.data)
    persistent = model.state_dict().keys() if not only_trained else ()
    for name, buffer in model.named_buffers():
        if name in persistent:
            _keep(found, name, buffer)
    return found


def _keep(found: dict[str, Tensor], name: str, value: Tensor) -> None:
    if dist.get_rank() == 0:
        found[name] = value.detach().to("cpu", copy=True)


def _whole(weight: nn.Parameter, *, writer: int | None = None) -> Any:
    """A context in which a weight, of which stage 3 holds parts, is whole; what process `writer` does to it is kept."""
    return import_module("deepspeed").zero.GatheredParameters([weight], writer, enabled=hasattr(weight, "ds_id"))


def set_masters(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Make float32 weights the masters; DeepSpeed would take them from its rounded copies."""
    for name, weight in model.named_parameters():
        if name in values:
            _set(weight, values[name].to(weight.device, torch.float32))


def _set(weight: nn.Parameter, value: Tensor, state: str | None = None) -> None:
    """Give this process its part of a whole master, or of a state of the optimizer's."""
    tools, key = import_module("deepspeed.utils"), () if state is None else (state,)
    if not hasattr(weight, "ds_id"):
        (tools.safe_set_full_optimizer_state if key else tools.safe_set_full_fp32_param)(weight, value, *key)
        return
    # stage 3 makes equal parts and fills up the last ones, beyond whose end its own way to set a whole tensor cuts
    held: Any = weight
    size = held.ds_tensor.numel()
    part = value.flatten()[dist.get_rank() * size :][:size]
    part = nn.functional.pad(part, (0, size - part.numel()))
    (tools.safe_set_local_optimizer_state if key else tools.safe_set_local_fp32_param)(weight, part, *key)


def set_weights(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Make whole weights those that are trained: the masters, and the copies that DeepSpeed computes with."""
    set_masters(model, values)
    for name, weight in model.named_parameters():
        if weight.requires_grad and name in values:
            with _whole(weight, writer=0), torch.no_grad():
                weight.copy_(values[name])


def gather_optimizer(engine: Any, groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The optimizer's state in the form of `torch.distributed.checkpoint.state_dict.get_optimizer_state_dict`.

    Args:
        engine: DeepSpeed's. groups: names of the weights of each of the optimizer's groups.
    """
    whole_state = import_module("deepspeed.utils").safe_get_full_optimizer_state
    flat, scalars = _names(engine.optimizer)
    _link_states(engine.optimizer)
    state: dict[str, dict[str, Any]] = {}
    for name, weight in _trained(engine):
        parts: dict[str, Tensor] = {}
        for key in flat:
            _keep(parts, key, whole_state(weight, key))
        if parts:
            state[name] = {**parts, **{key: _copied(value) for key, value in scalars.items()}}
    inner = engine.optimizer.optimizer.param_groups
    told = [{key: value for key, value in group.items() if key != "params"} for group in inner]
    # groups without weights, which DeepSpeed drops, other engines expect
    options = iter(told)
    named = [{**(next(options) if own else told[0]), "params": list(own)} for own in groups]
    return {"state": state, "param_groups": named}


def fill_optimizer(engine: Any, saved: dict[str, Any]) -> None:
    """Give each process its part of what `gather_optimizer`, or another engine, wrote."""
    optimizer, state = engine.optimizer, saved["state"]
    first = next(iter(state.values()), {})
    flat = [key for key, value in first.items() if isinstance(value, Tensor) and value.dim()]
    for master in _masters(optimizer):
        scalars = {key: _copied(value) for key, value in first.items() if key not in flat}
        optimizer.optimizer.state[master] = {**scalars, **{key: torch.zeros_like(master) for key in flat}}
    _link_states(optimizer)
    for name, weight in _trained(engine):
        for key in flat:
            _set(weight, state[name][key].to(weight.device), key)
    kept = [group for group in saved["param_groups"] if group["params"]]
    for group, old in zip(optimizer.optimizer.param_groups, kept, strict=True):
        group.update({key: value for key, value in old.items() if key != "params" and key in group})


def _link_states(optimizer: Any) -> None:
    """Stages 1 and 2 look once where a weight's states are: after the first group's step, before the others'."""
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _trained(engine: Any) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in engine.module.named_parameters() if weight.requires_grad)


def _masters(optimizer: Any) -> list[Tensor]:
    return next(list(getattr(optimizer, name)) for name in _FLAT if hasattr(optimizer, name))


def _names(optimizer: Any) -> tuple[list[str], dict[str, Any]]:
    """Names of the states that have a number for each weight, and the other states with their values."""
    states = optimizer.optimizer.state
    held = next((states[master] for master in _masters(optimizer) if states.get(master)), {})
    flat = [key for key, value in held.items() if isinstance(value, Tensor) and value.dim()]
    told: list[Any] = [flat, {key: _plain(value) for key, value in held.items() if key not in flat}]
    # a process may hold no part of any weight
    dist.broadcast_object_list(told, src=0)
    return told[0], told[1]


def _plain(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value
