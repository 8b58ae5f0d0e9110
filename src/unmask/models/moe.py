"""The sparse forward pass that all mixture-of-experts families share: the dense one with other MLPs.

It reads top to bottom: router, experts, their MLP, trunk. It knows shapes, not checkpoints: `families/` maps each
official layout onto it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.dense import DenseTrunk
from unmask.models.grouped import grouped_product
from unmask.models.layers import GatedMLP, RMSNorm
from unmask.models.shape import DenseShape

# far above any model, far below what a hostile file would have us count up
_MOST_EXPERTS, _WIDEST = 4096, 2**24


@dataclass(frozen=True)
class SparseShape(DenseShape):
    """A `DenseShape` in some of whose layers each token goes through a few experts, `mlp_width` being the others'.

    Attributes:
        experts: number of them per layer, E. active: how many a token goes through.
        expert_width: inner width of one expert. shared_width: of the MLP that every token goes through beside them, 0
            where there is none.
        first_dense: the layers before this one have no experts. dense_layers: further layers without.
        scores: how a router's logits become scores: over all experts, or each by itself.
        routing_bias: scores are corrected, for the choice alone, by a stored bias per expert.
        groups, active_groups: experts are chosen out of the best groups, those whose two best scores sum up highest.
        normalised: the weights of a token's experts sum up to `routed_scale`; otherwise they are its scores times that.

    Raises:
        ValueError: the numbers do not fit each other.
    """

    experts: int = 1
    active: int = 1
    expert_width: int = 1
    shared_width: int = 0
    first_dense: int = 0
    dense_layers: tuple[int, ...] = ()
    scores: Literal["softmax", "sigmoid"] = "softmax"
    routing_bias: bool = False
    groups: int = 1
    active_groups: int = 1
    normalised: bool = False
    routed_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("experts", 1, _MOST_EXPERTS),
            ("active", 1, self.experts),
            ("expert_width", 1, _WIDEST),
            ("shared_width", 0, _WIDEST),
            ("first_dense", 0, _WIDEST),
            ("groups", 1, self.experts),
            ("active_groups", 1, self.groups),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(f"the model's {name} is {value!r}; it must be a whole number from {least} to {most:,}")
        in_group = self.experts / self.groups
        if self.groups > 1 and (in_group < 2 or in_group % 1 or self.active > self.active_groups * in_group):
            raise ValueError(
                f"{self.experts} experts in {self.groups} groups, of which {self.active_groups} take part, do not "
                f"leave {self.active} to choose in groups of equal size, of at least 2"
            )

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return layer >= self.first_dense and layer not in self.dense_layers


class Router(nn.Module):
    """Chooses each token's experts and their weights, in float32 at least, whatever the model's type."""

    expert_bias: Tensor | None

    def __init__(self, shape: SparseShape) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.empty(shape.experts, shape.width))
        # the official name: what is stored belongs to the leaf, not to the path
        self.register_buffer("expert_bias", torch.zeros(shape.experts) if shape.routing_bias else None)

    def forward(self, x_nD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights, float32 at least, and numbers, int64, of each row's experts, the best first: both `[n, active]`."""
        shape = self.shape
        with torch.autocast(x_nD.device.type, enabled=False):
            exact = torch.promote_types(x_nD.dtype, torch.float32)
            logits_nE = F.linear(x_nD.to(exact), self.weight.to(exact))
            scores_nE = logits_nE.sigmoid() if shape.scores == "sigmoid" else logits_nE.softmax(-1)
            chosen_nA = self._best(scores_nE)
            weight_nA = scores_nE.gather(1, chosen_nA)
            if shape.normalised:
                weight_nA = weight_nA / (weight_nA.sum(-1, keepdim=True) + 1e-20)
            return weight_nA * shape.routed_scale, chosen_nA

    @torch.no_grad()
    def _best(self, scores_nE: Tensor) -> Tensor:
        shape = self.shape
        if self.expert_bias is not None:
            scores_nE = scores_nE + self.expert_bias.to(scores_nE.dtype)
        if shape.groups > 1:
            # after DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): a group is as good as its two best experts
            grouped = scores_nE.unflatten(1, (shape.groups, -1))
            best = grouped.topk(2, dim=-1).values.sum(-1).topk(shape.active_groups, dim=-1).indices
            taken = torch.zeros(grouped.shape[:2], dtype=torch.bool, device=best.device).scatter_(1, best, True)
            scores_nE = grouped.masked_fill(~taken.unsqueeze(-1), float("-inf")).flatten(1)
        return scores_nE.topk(shape.active, dim=-1).indices


class ExpertProjection(nn.Module):
    """The same linear layer of all experts, stacked: `[E, outputs, inputs]`."""

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))

    def forward(self, x_mI: Tensor, ends_E: Tensor) -> Tensor:
        """Rows sorted by expert, those of expert e ending at `ends_E[e]`."""
        weight, kind = self.weight, x_mI.device.type
        if torch.is_autocast_enabled(kind):  # which knows nothing of our product
            dtype = torch.get_autocast_dtype(kind)
            x_mI, weight = x_mI.to(dtype), weight.to(dtype)
        return grouped_product(x_mI, weight, ends_E)


class Experts(nn.Module):
    """A `GatedMLP` per expert, computed for all of them at once."""

    def __init__(self, shape: SparseShape) -> None:
        super().__init__()
        self.number = shape.experts
        self.gate_proj = ExpertProjection(shape.experts, shape.width, shape.expert_width)
        self.up_proj = ExpertProjection(shape.experts, shape.width, shape.expert_width)
        self.down_proj = ExpertProjection(shape.experts, shape.expert_width, shape.width)

    def forward(self, x_nD: Tensor, weight_nA: Tensor, chosen_nA: Tensor) -> Tensor:
        """The weighted sum over each row's experts, `[n, D]`. Waits for no device."""
        active, flat_m = chosen_nA.shape[1], chosen_nA.flatten()
        order_m = flat_m.argsort(stable=True)
        counts_E = torch.zeros(self.number, dtype=torch.int64, device=flat_m.device)
        ends_E = counts_E.scatter_add_(0, flat_m, torch.ones_like(flat_m)).cumsum(0).to(torch.int32)
        x_mD = x_nD[order_m // active]
        inner_m = F.silu(self.gate_proj(x_mD, ends_E)) * self.up_proj(x_mD, ends_E)
        # weighing the inner rows, which are the narrower ones, weighs the outer ones
        inner_m = inner_m * weight_nA.flatten()[order_m].unsqueeze(1).to(inner_m.dtype)
        y_mD = self.down_proj(inner_m, ends_E)
        back_m = torch.empty_like(order_m).scatter_(0, order_m, torch.arange(order_m.shape[0], device=order_m.device))
        return y_mD[back_m].unflatten(0, (-1, active)).sum(1)


class SparseMLP(nn.Module):
    """Each token through its experts and, where there is one, the shared MLP."""

    def __init__(self, shape: SparseShape) -> None:
        super().__init__()
        self.router = Router(shape)
        self.experts = Experts(shape)
        self.shared = GatedMLP(shape.width, shape.shared_width) if shape.shared_width else None

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_nD = x_BLD.flatten(0, 1)
        y_BLD = self.experts(x_nD, *self.router(x_nD)).view(x_BLD.shape)
        return y_BLD if self.shared is None else y_BLD + self.shared(x_BLD)


class SparseTrunk(DenseTrunk):
    """`DenseTrunk` with experts in the layers that have them."""

    shape: SparseShape

    def mlp_of(self, layer: int) -> nn.Module:
        """What follows the attention of a layer."""
        return SparseMLP(self.shape) if self.shape.is_sparse(layer) else super().mlp_of(layer)

    @torch.no_grad()
    def initialise(self, head: nn.Linear | None, generator: torch.Generator | None = None) -> None:
        """First weights, as the official code draws those of its layers: one normal distribution for all."""
        for module in [*self.modules(), *([head] if head is not None else [])]:
            if isinstance(module, nn.Linear | nn.Embedding | Router | ExpertProjection):
                module.weight.normal_(0.0, self.shape.init_std, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, RMSNorm):
                module.weight.fill_(1.0)
            if isinstance(module, Router) and module.expert_bias is not None:
                module.expert_bias.zero_()
