"""From logits to one proposed token per masked position, with what strategies want to know about it.

Everything is computed once, in float32 (float64 on request), only at the positions that may be committed; on a
processor a few positions at a time, whose numbers stay in its cache. Knows neither the model nor which positions will
be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.generation.filtering import filter_logits

LOG2_E = math.log2(math.e)
# numbers of a tile on a processor; of a row from which on it is a tile by itself, so that with several threads, which
# add a long row by itself in another order than one among others, a position does not depend on its neighbours
_TILE, _LONG = 2**17, 2**15
# a row's numbers compared with each other at once
_STRIDE = 256


# of logits, where they are pending, and ids left out: `predicted_BL` and `log_prob_BL`; None: not of these logits
Judge = Callable[[Tensor, Tensor, Sequence[int]], "tuple[Tensor, Tensor] | None"]


@dataclass(frozen=True)
class Rules:
    """What turns a model's logits into those that a token is proposed from.

    Attributes:
        never: ids that are not proposed; the mask token is among them.
        last: ids that lose their probability after the token is chosen, so that they are committed last.
        among: `top_k` and `top_p` of `filter_logits`; what they leave out has no probability.
        temperature: 0: the most probable token; above: a sample of softmax(logits / temperature).
        precise: compute in float64.
        judge: finds tokens and their log-probabilities where nothing is drawn or filtered, sooner; None: nobody.
    """

    never: tuple[int, ...]
    last: tuple[int, ...] = ()
    among: tuple[int | None, float | None] = (None, None)
    temperature: float = 0.0
    precise: bool = False
    judge: Judge | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the most probable token is proposed, and all but `never` count."""
        return not (self.last or self.temperature or self.precise) and self.among == (None, None)

    def allowed(self, logits_nV: Float[Tensor, "n V"]) -> Float[Tensor, "n V"]:
        """A copy, in the type that is computed in, -inf where nothing may be proposed."""
        logits_nV = without(logits_nV.to(torch.float64 if self.precise else torch.float32, copy=True), self.never)
        return filter_logits(logits_nV, *self.among, temperature=self.temperature or 1.0)


@dataclass(frozen=True)
class Proposal:
    """One proposed token for each pending position; n pending positions in row-major order.

    Attributes:
        predicted_BL: int64 proposed token; 0 where nothing is pending.
        log_prob_BL: float32 or float64, nats; log-probability of the proposed token without temperature. Finite
            where pending (a token without probability has the lowest finite number), -inf elsewhere.
        pending_BL: bool; masked positions of the active block; for strategies that read what is filled, those too.
        model_nV: the model's logits. rules: what was made of them.
        verify_log_prob_BL: of the token that stands at a filled position that was not given, when it is hidden; -inf
            elsewhere. None: the strategy did not ask for it.
    """

    predicted_BL: Int[Tensor, "B L"]
    log_prob_BL: Float[Tensor, "B L"]
    pending_BL: Bool[Tensor, "B L"]
    model_nV: Float[Tensor, "n V"]
    rules: Rules
    verify_log_prob_BL: Float[Tensor, "B L"] | None = None

    @cached_property
    def logits_nV(self) -> Float[Tensor, "n V"]:
        """The logits the numbers come from, suppressed tokens at -inf."""
        return without(self.rules.allowed(self.model_nV), self.rules.last)

    @cached_property
    def margin_BL(self) -> Float[Tensor, "B L"]:
        """Probability of the best token less that of the second; -inf where nothing is pending."""
        best_n2 = self.logits_nV.softmax(-1).topk(2, dim=-1).values
        return self._scatter(best_n2[:, 0] - best_n2[:, 1])

    @cached_property
    def entropy_BL(self) -> Float[Tensor, "B L"]:
        """Entropy in nats; -inf where nothing is pending."""
        probability_nV = self.logits_nV.softmax(-1)
        return self._scatter(-torch.xlogy(probability_nV, probability_nV).sum(-1))

    @cached_property
    def is_last_BL(self) -> Bool[Tensor, "B L"]:
        """Where the proposed token is one that is to be committed last."""
        if not self.rules.last:
            return torch.zeros_like(self.pending_BL)
        return torch.isin(self.predicted_BL, torch.tensor(self.rules.last, device=self.predicted_BL.device))

    def _scatter(self, values_n: Float[Tensor, " n"]) -> Float[Tensor, "B L"]:
        blank_BL = torch.full_like(self.log_prob_BL, -torch.inf)
        return blank_BL.masked_scatter(self.pending_BL, values_n)


def propose(
    logits_nV: Float[Tensor, "n V"],
    pending_BL: Bool[Tensor, "B L"],
    rules: Rules,
    *,
    uniform_n: Float[Tensor, " n"] | None = None,
) -> Proposal:
    """Propose a token for each pending position.

    Args:
        logits_nV: any float dtype, at the pending positions in row-major order.
        pending_BL: bool with n true.
        uniform_n: float64 numbers in [0, 1), for a temperature above 0.
    """
    judged = rules.judge(logits_nV, pending_BL, rules.never) if rules.judge is not None and rules.is_plain else None
    if judged is not None:
        return Proposal(*judged, pending_BL, logits_nV, rules)
    found = _judged_in_tiles(logits_nV, rules, uniform_n)
    predicted_n, log_prob_n = found[0] if len(found) == 1 else (torch.cat(parts) for parts in zip(*found, strict=True))
    nothing_BL = torch.zeros(pending_BL.shape, dtype=torch.int64, device=pending_BL.device)
    lowest_BL = torch.full(pending_BL.shape, -torch.inf, dtype=log_prob_n.dtype, device=pending_BL.device)
    return Proposal(
        predicted_BL=nothing_BL.masked_scatter(pending_BL, predicted_n),
        log_prob_BL=lowest_BL.masked_scatter(pending_BL, log_prob_n),
        pending_BL=pending_BL,
        model_nV=logits_nV,
        rules=rules,
    )


def _judged_in_tiles(
    logits_nV: Float[Tensor, "n V"], rules: Rules, uniform_n: Float[Tensor, " n"] | None
) -> list[tuple[Tensor, Tensor]]:
    """Tokens and their log-probabilities, some rows after the others."""
    rows = _rows_at_once(logits_nV)
    draws = repeat(None) if uniform_n is None or rules.temperature == 0 else torch.split(uniform_n, rows)
    tiles = zip(torch.split(logits_nV, rows), draws, strict=False)
    return [_judged(some_nV, rules, draw_n) for some_nV, draw_n in tiles]


def _rows_at_once(logits_nV: Float[Tensor, "n V"]) -> int:
    rows, words = logits_nV.shape
    if logits_nV.device.type != "cpu":
        return max(1, rows)
    return 1 if words >= _LONG else _TILE // max(1, words)


def _judged(
    logits_nV: Float[Tensor, "n V"], rules: Rules, uniform_n: Float[Tensor, " n"] | None
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """A token for each row and its log-probability."""
    logits_nV = rules.allowed(logits_nV)
    drawn_n = None if uniform_n is None else inverse_cdf(logits_nV, rules.temperature, uniform_n)
    predicted_n = first_best(logits_nV) if drawn_n is None else drawn_n
    if drawn_n is None and not rules.last:
        own_n1 = best_n1 = logits_nV.gather(1, predicted_n[:, None])
    else:
        logits_nV = without(logits_nV, rules.last)
        own_n1 = logits_nV.gather(1, predicted_n[:, None])
        best_n1 = logits_nV.amax(-1, keepdim=True)
    # a grammar may leave nothing but those that go last
    best_n1 = best_n1.masked_fill(best_n1 == -torch.inf, 0.0)
    # in place, and to a power of two: PyTorch's exp is MKL's, slow but on Intel
    total_n1 = logits_nV.sub_(best_n1).mul_(LOG2_E).exp2_().sum(-1, keepdim=True)
    log_prob_n = (own_n1 - best_n1 - total_n1.log().clamp(min=0.0))[:, 0]
    # A token that lost its probability stays above the positions that are not pending.
    return predicted_n, log_prob_n.clamp(min=torch.finfo(log_prob_n.dtype).min)


def without(logits_nV: Float[Tensor, "n V"], ids: tuple[int, ...]) -> Float[Tensor, "n V"]:
    """The same tensor, -inf at these ids."""
    if ids:
        logits_nV[:, ids[0] if len(ids) == 1 else list(ids)] = -torch.inf
    return logits_nV


def first_best(logits_nV: Float[Tensor, "n V"]) -> Int[Tensor, " n"]:
    """The first of each row's highest numbers, as `argmax` has it; not a number counts as the highest."""
    words = logits_nV.shape[1]
    if logits_nV.device.type != "cpu" or words < 16 * _STRIDE:
        return logits_nV.argmax(-1)
    # argmax goes from number to number, amax by many at a time: first the stretch, then the place in it
    whole = words // _STRIDE * _STRIDE
    most_nS = logits_nV[:, :whole].reshape(len(logits_nV), whole // _STRIDE, _STRIDE).amax(-1)
    if whole < words:
        most_nS = torch.cat([most_nS, logits_nV[:, whole:].amax(-1, keepdim=True)], 1)
    start_n1 = most_nS.argmax(-1, keepdim=True) * _STRIDE
    place_nS = (start_n1 + torch.arange(_STRIDE)).clamp(max=words - 1)
    return (start_n1 + logits_nV.gather(1, place_nS).argmax(-1, keepdim=True))[:, 0]


def verified(
    proposal: Proposal,
    logits_mV: Float[Tensor, "m V"],
    hidden_BL: Bool[Tensor, "B L"],
    tokens_BL: Int[Tensor, "B L"],
    *,
    never: tuple[int, ...],
) -> Proposal:
    """The proposal, with the log-probability of each token that stands at the m positions of `hidden_BL`."""
    logits_mV = logits_mV.to(proposal.log_prob_BL.dtype, copy=True)
    logits_mV[:, list(never)] = -torch.inf
    log_prob_m = logits_mV.log_softmax(-1).gather(1, tokens_BL[hidden_BL][:, None])[:, 0]
    blank_BL = torch.full_like(proposal.log_prob_BL, -torch.inf)
    return replace(proposal, verify_log_prob_BL=blank_BL.masked_scatter(hidden_BL, log_prob_m))


def inverse_cdf(
    logits_nV: Float[Tensor, "n V"], temperature: float, uniform_n: Float[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Sample softmax(logits / temperature) with one uniform number per row, by inverting the distribution function."""
    best_n = logits_nV.max(-1)
    # Subtracting the maximum before dividing keeps temperatures near zero finite.
    weight_nV = ((logits_nV - best_n.values[:, None]) / temperature).exp()
    cdf_nV = weight_nV.cumsum(-1)
    target_n = uniform_n.to(cdf_nV.dtype) * cdf_nV[:, -1]
    token_n = torch.searchsorted(cdf_nV, target_n[:, None], right=True)[:, 0].clamp(max=logits_nV.shape[1] - 1)
    # Rounding (of a number next to 1, of a parallel cumulative sum) can hit a token that has no probability at all.
    is_possible_n = weight_nV.gather(1, token_n[:, None])[:, 0] > 0
    return torch.where(is_possible_n, token_n, best_n.indices)
