"""How much memory a training run takes, per process, before it starts.

Weights, gradients and optimizer are counted from the network's own shapes; activations come from `rehearsal.py`. What
ZeRO and FSDP divide and gather follows their documentation. Not counted: the CUDA context (about half a GiB) and what
the allocator loses between blocks (a few per cent).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unmask.errors import ConfigError, did_you_mean
from unmask.models.facts import Facts
from unmask.models.freed import is_kept
from unmask.models.linear import KEPT_SHAPES
from unmask.training.rehearsal import Pass, Peaks, imagined, rehearse
from unmask.training.trained import Trained

SHARINGS = ("none", "ddp", "zero1", "zero2", "zero3", "fsdp")
# DeepSpeed's defaults, in elements: gradients sent at once, and weights gathered at the same time in stage 3
_BUCKET, _MOST_GATHERED = 500_000_000, 1_000_000_000
# bitsandbytes: four bits and one float32 scale for 64 weights; eight bits and one float32 scale per row
_QUANTISED = {4: 0.5 + 4 / 64, 8: 1.0}
# on a processor: what oneDNN keeps compiled for the products of each shape, bytes, as measured on AVX-512
_COMPILED = KEPT_SHAPES * 300_000


@dataclass(frozen=True)
class Question:
    """The run.

    Attributes:
        facts: of the model. dtype: weights are held in. trained: which of them, or an adapter, the rest frozen.
        bits: of a quantised base.
        rows, length: of one forward. hidden: some positions do not see others (padding, packing).
        bf16: mixed precision. recompute: one of `recompute.STRATEGIES`; None: all activations are kept.
        optim: transformers' name. accumulation: forwards of an update.
        copies: noisy ones of each row. streams: those that a row is fed as; 0: copies are rows of their own.
        on_gpu: whether a GPU trains, where some optimizers take other ways. eager: attention that is written out.
    """

    facts: Facts
    dtype: torch.dtype = torch.float32
    trained: Trained = field(default_factory=Trained)
    bits: int | None = None
    rows: int = 8
    length: int = 1024
    hidden: bool = False
    bf16: bool = False
    recompute: str | None = None
    optim: str = "adamw_torch_fused"
    accumulation: int = 1
    copies: int = 1
    streams: int = 0
    on_gpu: bool = False
    eager: bool = False


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device.

    Attributes:
        sharing, ranks: how the run is divided. weights, gradients, optimizer: held all the time.
        buffers: for sending gradients, or weights gathered from other ranks.
        activations: at the worst moment of a forward and backward pass, gradients of weights left out.
        peak: the most at any time; below the sum, since gradients grow while activations are freed; on a processor with
            what its library keeps compiled.
    """

    sharing: str
    ranks: int
    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    peak: int

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Name and bytes of each part."""
        names = ("weights", "gradients", "optimizer", "buffers", "activations")
        return [(name, getattr(self, name)) for name in names]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class _Counted:
    """What the shapes say: weights in all, bytes of them, weights trained, bytes of optimizer states, largest units,
    what the optimizer makes and frees in its step, bytes of the layers in few bits, that FSDP leaves whole; and whether
    what activations took is given back before the embedding's gradient is made."""

    weights: int
    bytes: int
    trained: int
    trained_bytes: int
    states: int
    layer: int
    root: int
    step: int = 0
    packed: int = 0
    gives_back: bool = True


def estimate(question: Question, sharing: str = "none", ranks: int = 1) -> Estimate:
    """The memory of one process.

    Args:
        question: the run. sharing: one of `SHARINGS`. ranks: processes, one per device.

    Raises:
        ConfigError: there is no such sharing.
    """
    if sharing not in SHARINGS:
        raise ConfigError(f'sharing "{sharing}" is not one of {", ".join(SHARINGS)}.{did_you_mean(sharing, SHARINGS)}')
    return _estimate(question, sharing, ranks, _measure(question, cast=_is_cast(question, sharing)))


def estimates(question: Question, ranks: int) -> list[Estimate]:
    """One per way of dividing the run; a single process has one way."""
    if ranks == 1:
        return [estimate(question)]
    ways = SHARINGS[1:]
    measured = {cast: _measure(question, cast=cast) for cast in {_is_cast(question, way) for way in ways}}
    return [_estimate(question, way, ranks, measured[_is_cast(question, way)]) for way in ways]


def _is_cast(question: Question, sharing: str) -> bool:
    """ZeRO and FSDP hold a bf16 copy of the weights; elsewhere autocast makes copies as it goes."""
    return question.bf16 and sharing in ("zero1", "zero2", "zero3", "fsdp")


def _measure(question: Question, *, cast: bool) -> tuple[_Counted, Peaks]:
    length, bf16 = question.length, question.bf16 and not cast
    rows, streams = question.rows * (1 if question.streams else question.copies), question.streams or 1
    predicted = question.rows * question.copies * length
    # of blocks and streams no mask over all pairs is made
    what = Pass(rows, streams * length, predicted, question.hidden and not question.streams, bf16)
    whole = torch.bfloat16 if cast else None
    with imagined(question.facts, question.dtype, question.trained, eager=question.eager, whole=whole) as model:
        if question.recompute is not None:
            model.gradient_checkpointing_enable(strategy=question.recompute)
        return _count(model, question, cast), rehearse(model, what)


def _estimate(question: Question, sharing: str, ranks: int, measured: tuple[_Counted, Peaks]) -> Estimate:
    counted, peaks = measured
    held = _DIVIDED[sharing](counted, question, ranks)
    weights, gradients, optimizer, buffers = (int(size) for size in held)
    fresh = sharing == "none" and question.accumulation == 1 and counted.gives_back
    together = peaks.together if fresh else gradients + peaks.working
    step = counted.step // (1 if sharing in ("none", "ddp") else ranks)
    compiled = 0 if question.on_gpu else _COMPILED
    peak = weights + optimizer + buffers + compiled + max(together, gradients + step)
    return Estimate(sharing, ranks, weights, gradients, optimizer, buffers, peaks.working, peak)


def _count(model: Any, question: Question, cast: bool) -> _Counted:
    unique = {id(weight): weight for weight in model.parameters()}.values()
    trained = [weight for weight in unique if weight.requires_grad]
    packed = {id(weight): weight for weight in _packed(model, question.bits)}
    layers = [sum(w.numel() for w in layer.parameters() if id(w) not in packed) for layer in model.trunk.layers]
    total = sum(weight.numel() for weight in unique)
    # as the optimizer sees them, whatever type an engine computes in
    own = {id(weight): _own_size(question) if cast else weight.element_size() for weight in trained}
    return _Counted(
        weights=total,
        bytes=int(sum(_held_size(weight, question.bits if id(weight) in packed else None) for weight in unique)),
        trained=sum(weight.numel() for weight in trained),
        trained_bytes=sum(weight.numel() * own[id(weight)] for weight in trained),
        states=sum(
            state_bytes(_optimizer_of(weight, model, question.optim), weight, own[id(weight)]) for weight in trained
        ),
        layer=max(layers, default=0),
        root=total - sum(layers) - sum(weight.numel() for weight in packed.values()),
        step=step_bytes(question.optim, [weight.numel() * own[id(weight)] for weight in trained], question.on_gpu),
        packed=int(sum(_held_size(weight, question.bits) for weight in packed.values())),
        gives_back=question.on_gpu or not is_kept(model.trunk.embed.weight),
    )


def _optimizer_of(weight: Tensor, model: Any, optim: str) -> str:
    """transformers keeps the states of embeddings in 32 bits where others have 8."""
    return optim.replace("8bit", "32bit") if weight is model.trunk.embed.weight else optim


def _bytes(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()


def _own_size(question: Question) -> int:
    return 4 if question.trained.adapted else question.dtype.itemsize


def _held_size(weight: Tensor, bits: int | None) -> float:
    """Bytes; `bits` for a weight in few bits."""
    return _bytes(weight) if bits is None else weight.numel() * _QUANTISED[bits]


def _packed(model: Any, bits: int | None) -> list[Tensor]:
    """Weights that are held in few bits: linear layers of the trunk; not embedding, norms, head and adapters."""
    linear = [(name, part) for name, part in model.trunk.layers.named_modules() if isinstance(part, nn.Linear)]
    return [part.weight for name, part in linear if bits is not None and ".lora_" not in name]


def state_bytes(optim: str, weight: Tensor, size: int) -> int:
    """Bytes of an optimizer's state for one weight whose numbers have `size` bytes; unknown ones count as AdamW."""
    count = weight.numel()
    if "8bit" in optim:
        states = 1 if "lion" in optim else 2
        # small tensors stay in float32; the others have one float32 scale per 256 numbers
        return states * (count * 4 if count < 4096 else count + 4 * -(-count // 256))
    if optim == "adafactor":
        return 4 * (count if weight.dim() < 2 else count // weight.shape[-1] + count // weight.shape[-2])
    states = {"sgd": 0, "adagrad": 1, "rmsprop": 1}.get(optim, 1 if "lion" in optim else 2)
    return states * count * (4 if "32bit" in optim else size)


def step_bytes(optim: str, weights: list[int], on_gpu: bool) -> int:
    """Bytes that an optimizer makes and frees while it does its step, beside its states, for weights of these bytes."""
    largest = max(weights, default=0)
    if "8bit" in optim:
        # a kernel on a GPU; elsewhere bitsandbytes computes in float32, weight by weight
        return 0 if on_gpu else 4 * largest
    if "fused" in optim or "32bit" in optim or optim == "sgd":
        return 0
    # PyTorch's own go through all weights at once on a GPU, and one by one elsewhere, as Adafactor does everywhere
    return sum(weights) if on_gpu and optim != "adafactor" else 2 * largest


Held = tuple[float, float, float, float]


def _alone(counted: _Counted, question: Question, ranks: int) -> Held:
    return counted.bytes, counted.trained_bytes, counted.states, 0


def _ddp(counted: _Counted, question: Question, ranks: int) -> Held:
    """Everything on each rank, and a second copy of the gradients, in which they are sent."""
    return counted.bytes, counted.trained_bytes, counted.states, counted.trained_bytes


def _zero(stage: int) -> Callable[[_Counted, Question, int], Held]:
    """ZeRO (arXiv 1910.02054): stage 1 divides the optimizer, 2 the gradients too, 3 the weights too."""

    def divided(counted: _Counted, question: Question, ranks: int) -> Held:
        size = 2 if question.bf16 else question.dtype.itemsize
        weights = counted.bytes / (ranks if stage == 3 else 1)
        gradients = counted.trained * size / (ranks if stage >= 2 else 1)
        master = 4 * counted.trained
        buffers = size * min(_BUCKET, counted.trained)
        if stage == 3:
            buffers += size * min(_MOST_GATHERED, counted.weights)
        return weights, gradients, (counted.states + master) / ranks, buffers

    return divided


def _fsdp(counted: _Counted, question: Question, ranks: int) -> Held:
    """All divided; gathered are the layer at work, the next one and what belongs to no layer, with the gradients of
    those that are trained."""
    size = 2 if question.bf16 else question.dtype.itemsize
    unpacked = counted.weights - (counted.packed / _QUANTISED[question.bits] if question.bits else 0)
    divided = counted.bytes - counted.packed + unpacked * (question.dtype.itemsize - size)
    gathered = size * (2 * counted.layer + counted.root) * (1 + counted.trained / counted.weights)
    return counted.packed + divided / ranks, counted.trained_bytes / ranks, counted.states / ranks, gathered


_DIVIDED: dict[str, Callable[[_Counted, Question, int], Held]] = {
    "none": _alone,
    "ddp": _ddp,
    "zero1": _zero(1),
    "zero2": _zero(2),
    "zero3": _zero(3),
    "fsdp": _fsdp,
}


def readable(size: float) -> str:
    """Bytes for people: 1.5 GiB."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"
