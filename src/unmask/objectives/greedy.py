"""Whether targets are what greedy decoding writes, of many pairs at once.

A denoiser writes the surest token of the target first, one per forward; an autoregressive network from left to right.
Neither decoding strategies nor tokenizers are known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.objectives.asking import Fed, Pair, Questions, by_length, by_prompt, logits_at
from unmask.objectives.estimators import causal_question, windows
from unmask.types import Denoiser


@dataclass(frozen=True)
class _Row:
    """A pair under way: its index, its clean ids, the places that are still masked, tokens of the prompt."""

    index: int
    x0_L: Int[Tensor, " L"]
    masked: list[int]
    prompt: int

    @staticmethod
    def of(index: int, pair: Pair) -> _Row:
        prompt, target = pair
        x0_L = torch.tensor([*prompt, *target], dtype=torch.int64)
        return _Row(index, x0_L, list(range(len(prompt), len(x0_L))), len(prompt))


@dataclass(frozen=True)
class GreedyWriting:
    """Asks whether a denoiser, given a prompt and as many masks as the target has tokens, writes the target.

    It writes the most probable token where that is most probable, of equal ones the first, one per forward, and never
    the mask. A pair is done at the first token that differs.

    Attributes:
        mask_token_id: the checkpoint's mask token.
        batch_size: rows of one forward; changes nothing beyond rounding.
        guidance_scale: classifier-free guidance; 0 is none.
    """

    mask_token_id: int
    batch_size: int = 32
    guidance_scale: float = 0.0

    def many(
        self, denoiser: Denoiser, pairs: Sequence[Pair], *, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[int, bool]]:
        """Judge pairs; one that is done makes room for the next.

        Args:
            denoiser: without dropout.
            pairs: ids of prompt and target, either may be empty.
            device: the denoiser's.

        Yields:
            Index of the pair, and whether its target is what is written, each once.
        """
        waiting = [_Row.of(index, pairs[index]) for index in by_length(pairs)]
        yield from ((row.index, True) for row in waiting if not row.masked)
        waiting = [row for row in waiting if row.masked]
        rows: list[_Row] = []
        while rows or waiting:
            free = self.batch_size - len(rows)
            rows, waiting = rows + waiting[:free], waiting[free:]
            under_way: list[_Row] = []
            for row, after in zip(rows, self._turn(denoiser, rows, device), strict=True):
                if after is None or not after.masked:
                    yield row.index, after is not None
                else:
                    under_way.append(after)
            rows = under_way

    @torch.no_grad()
    def _turn(self, denoiser: Denoiser, rows: list[_Row], device: torch.device | str) -> list[_Row | None]:
        """Write one token in each row; None where it is not the target's."""
        masked = [torch.tensor(row.masked) for row in rows]
        noised = [row.x0_L.index_fill(0, at, self.mask_token_id) for row, at in zip(rows, masked, strict=True)]
        fed, guidance = Fed.of(noised, device), None
        if self.guidance_scale:
            guidance = fed.guidance(self.guidance_scale, [row.prompt for row in rows], self.mask_token_id)
        flat = torch.cat([row * fed.tokens_BL.shape[1] + at for row, at in enumerate(masked)]).to(device)
        logits_nV = logits_at(denoiser, fed.tokens_BL, flat, attention=fed.attention, guidance=guidance)
        sizes = [len(at) for at in masked]
        log_prob, written = (torch.split(each.cpu(), sizes) for each in best(logits_nV, self.mask_token_id))
        return [_after(*found) for found in zip(rows, log_prob, written, strict=True)]


def _after(row: _Row, log_prob_n: Float[Tensor, " n"], best_n: Int[Tensor, " n"]) -> _Row | None:
    surest = int(log_prob_n.argmax())
    place = row.masked[surest]
    if int(best_n[surest]) != int(row.x0_L[place]):
        return None
    return replace(row, masked=[other for other in row.masked if other != place])


def best(logits_nV: Float[Tensor, "n V"], never: int | None) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """The most probable token of each row that is not `never`: its log-probability, float32 nats, and its id."""
    logits_nV = logits_nV.float()
    if never is not None and never < logits_nV.shape[1]:
        logits_nV[:, never] = -torch.inf
    most = logits_nV.max(-1)
    return most.values - logits_nV.logsumexp(-1), most.indices


@torch.no_grad()
def are_greedy_causal(
    denoiser: Denoiser,
    pairs: Sequence[Pair],
    *,
    mask_token_id: int | None = None,
    batch_size: int = 32,
    shares: bool = True,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, bool]]:
    """The same of a network whose row i predicts token i + 1, which writes from left to right: one forward.

    Args:
        denoiser: its rows see what is before them.
        pairs: ids of prompt and target; a prompt holds at least one token.
        mask_token_id: is never written; None: there is none.
        batch_size: rows per forward.
        shares: see `Questions`.
        device: the denoiser's.

    Yields:
        As `GreedyWriting.many`.
    """
    for window in windows(pairs, batch_size, lambda length: 1, by_prompt):
        questions = Questions(batch_size, device, is_causal=True, shares=shares)
        for index in window:
            questions.ask(*causal_question(pairs[index]))
        is_written = [True] * questions.slots
        for asked in questions.forwards(denoiser):
            logits_nV = logits_at(denoiser, asked.fed.tokens_BL, asked.flat.to(device), cache=asked.fed.cache)
            _, best_n = best(logits_nV, mask_token_id)
            for slot in asked.slot_n[best_n.cpu() != asked.targets]:
                is_written[int(slot)] = False
        yield from zip(window, is_written, strict=True)
