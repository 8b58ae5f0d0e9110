"""One forward and one backward pass over tensors without storage, counting the bytes that would be alive.

Nothing is computed and nothing allocated: PyTorch's fake tensors know shapes and types only. What is saved for the
backward pass, recomputed, cast or copied is what the network's own code saves, recomputes, casts and copies.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unmask.models import fused_nll
from unmask.models.facts import Facts
from unmask.models.shell import DiffusionModel
from unmask.training.trained import Trained, make_trained
from unmask.types import AttentionSpec

# positions at which the head is run where there are more
_FEW, _MORE = 2048, 3072
_ALL = Trained()


@dataclass(frozen=True)
class Pass:
    """What is run.

    Attributes:
        rows, length: of the batch. predicted: positions at which the head runs.
        hidden: padding or other documents are hidden from each token, so that attention needs a mask.
        bf16: mixed precision.
    """

    rows: int
    length: int
    predicted: int
    hidden: bool = False
    bf16: bool = False


@dataclass(frozen=True)
class Peaks:
    """Bytes alive beyond the weights.

    Attributes:
        saved: when the forward pass has ended. working: at the worst moment, gradients of weights left out.
        together: at the worst moment, gradients of weights included. gradients: of weights, at the end.
    """

    saved: int
    working: int
    together: int
    gradients: int


class Ledger(TorchDispatchMode):
    """Counts the storages made while it is active, until they are freed; those of `weights` are not counted."""

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {weight.untyped_storage()._cdata: 0 for weight in weights}
        self.alive = self.gradients = self.working = self.together = 0
        self._gradients: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        self.working = max(self.working, self.alive - self.gradients)
        self.together = max(self.together, self.alive)
        return result

    def is_gradient(self, weight: Tensor) -> None:
        """From now on this weight's gradient counts as one."""
        assert weight.grad is not None
        key = self._note(weight.grad)
        if key not in self._gradients:
            self._gradients.add(key)
            self.gradients += self.sizes[key]

    def turn(self) -> tuple[int, int]:
        """The peaks so far; those to come begin anew."""
        before = self.working, self.together
        self.working, self.together = self.alive - self.gradients, self.alive
        return before

    def _note(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.alive += self.sizes[key]
            weakref.finalize(storage, self._forget, key)
        return key

    def _forget(self, key: int) -> None:
        size = self.sizes.pop(key)
        self.alive -= size
        if key in self._gradients:
            self._gradients.discard(key)
            self.gradients -= size


@contextmanager
def imagined(
    facts: Facts,
    dtype: torch.dtype,
    trained: Trained = _ALL,
    *,
    eager: bool = False,
    whole: torch.dtype | None = None,
) -> Iterator[DiffusionModel]:
    """A model without storage, in training mode; use it inside the context.

    Args:
        facts: of the model. dtype: of its weights. trained: which of them, or an adapter on top. eager: attention that
            is written out. whole: a type that all of it is cast to.
    """
    with torch.device("meta"):
        model: Any = DiffusionModel(facts)
        model.to(dtype)
        make_trained(model, trained)
        # which those of an adapter on disk have taken the place of
        model.facts = facts
        if whole is not None:
            model.to(whole)
    with FakeTensorMode():
        _pretend(model)
        model.trunk.eager_attention = eager
        yield model.train()


def _pretend(model: nn.Module) -> None:
    """Replace weights without data by fake ones, on a processor, where kernels know what they would save."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            # a tied weight stays one weight
            if id(weight) not in made:
                made[id(weight)] = nn.Parameter(_like(weight), requires_grad=weight.requires_grad)
            setattr(module, name, made[id(weight)])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, _like(buffer))


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def rehearse(model: DiffusionModel, what: Pass) -> Peaks:
    """Run one pass of a model made by `imagined`.

    The head's part of it, which goes through many tiles, is run for a few positions and for some more; what it takes
    grows evenly with them. What the trunk takes afterwards does not: for that all are run, as a single tile.
    """
    if what.predicted <= _MORE:
        return _whole(*_passed(model, what))
    few, more = (_passed(model, replace(what, predicted=predicted))[0] for predicted in (_FEW, _MORE))
    beyond = (what.predicted - _MORE) / (_MORE - _FEW)
    around_head = [round(two + beyond * (two - one)) for one, two in zip(few, more, strict=True)]
    with _one_tile():
        in_trunk = _passed(model, what)[1]
    return _whole((around_head[0], around_head[1], around_head[2]), in_trunk)


@contextmanager
def _one_tile() -> Iterator[None]:
    usual = fused_nll.TILE_CPU
    fused_nll.TILE_CPU = (2**60, 2**60)
    try:
        yield
    finally:
        fused_nll.TILE_CPU = usual


# saved, working, together: as in `Peaks`
_Moment = tuple[int, int, int]


def _whole(around_head: _Moment, in_trunk: Peaks) -> Peaks:
    saved, working, together = around_head
    return replace(
        in_trunk, saved=saved, working=max(working, in_trunk.working), together=max(together, in_trunk.together)
    )


def _passed(model: DiffusionModel, what: Pass) -> tuple[_Moment, Peaks]:
    """The peaks until the head's backward pass has ended, and those after it."""
    tokens_BL = torch.zeros(what.rows, what.length, dtype=torch.int64)
    at = torch.arange(what.predicted)
    targets = torch.zeros(what.predicted, dtype=torch.int64)
    attention = AttentionSpec(document_BL=torch.zeros_like(tokens_BL), packed=False) if what.hidden else None
    ledger, moments = Ledger(model.parameters()), [(0, 0)]
    handles = [_watch(weight, ledger) for weight in model.parameters() if weight.requires_grad]

    def wait_for_gradient(_module: nn.Module, _inputs: Any, hidden: Tensor) -> None:
        if hidden.requires_grad:
            handles.append(hidden.register_hook(lambda _gradient: moments.append(ledger.turn())))

    handles.append(model.trunk.register_forward_hook(wait_for_gradient))
    mixed = torch.autocast("cpu", dtype=torch.bfloat16) if what.bf16 else nullcontext()
    with ledger:
        with mixed:
            loss = model(tokens_BL, attention=attention, logits_at=at, targets=targets).nll.sum()
        saved = ledger.alive
        loss.backward()
    for handle in handles:
        handle.remove()
    if len(moments) == 1:  # nothing in the trunk learns, so the pass ended with the head
        moments.append(ledger.turn())
    in_trunk = Peaks(saved, ledger.working, ledger.together, ledger.gradients)
    model.zero_grad()
    return (saved, *moments[-1]), in_trunk


def _watch(weight: nn.Parameter, ledger: Ledger) -> Any:
    return weight.register_post_accumulate_grad_hook(ledger.is_gradient)  # type: ignore[arg-type]
