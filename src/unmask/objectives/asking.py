"""Asking a denoiser for the cross-entropy of tokens, in many rows at once and in no row twice.

Knows neither masks nor estimates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unmask.diffusion.noising import absorb
from unmask.models.kv_cache import KVCache
from unmask.objectives.shared_prompts import Line, rests
from unmask.types import AttentionSpec, Denoiser

# ids of a prompt, and of what follows it
Pair = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: logits = unconditional + (scale + 1) (conditional - unconditional).

    Attributes:
        scale: 0 is no guidance.
        prompt_BL: bool; positions that are masked to get the unconditional logits.
        mask_token_id: what they are replaced by.
    """

    scale: float
    prompt_BL: Tensor
    mask_token_id: int


def masked_nll_sums(
    denoiser: Denoiser,
    perturbed_BL: Int[Tensor, "B L"],
    x0_BL: Int[Tensor, "B L"],
    is_masked_BL: Bool[Tensor, "B L"],
    *,
    guidance: Guidance | None = None,
) -> Float64[Tensor, " B"]:
    """Sum the negative log-likelihood of the clean tokens over the masked positions of each row.

    Args:
        denoiser: its head runs at the masked positions only.
        perturbed_BL: int64; the noised tokens.
        x0_BL: int64; the clean tokens.
        is_masked_BL: bool; positions to sum over, best on the CPU (anywhere else, finding them waits for the device).
        guidance: classifier-free guidance.

    Returns:
        float64 `[B]`, nats, on the CPU.
    """
    places = is_masked_BL.reshape(-1).nonzero()[:, 0].cpu()
    sums_B = torch.zeros(len(is_masked_BL), dtype=torch.float64)
    if len(places) == 0:
        return sums_B
    flat = places.to(x0_BL.device)
    nll = nll_at(denoiser, perturbed_BL, flat, x0_BL.reshape(-1)[flat], guidance=guidance)
    return sums_B.index_add(0, places // is_masked_BL.shape[1], nll.double().cpu())


def nll_at(
    denoiser: Denoiser,
    tokens_BL: Int[Tensor, "B L"],
    flat: Int[Tensor, " n"],
    targets: Int[Tensor, " n"],
    *,
    attention: AttentionSpec | None = None,
    cache: KVCache | None = None,
    guidance: Guidance | None = None,
) -> Float[Tensor, " n"]:
    """Negative log-likelihood of `targets` at flat positions, nats, float32."""
    if guidance is not None:
        return cross_entropy(logits_at(denoiser, tokens_BL, flat, attention=attention, guidance=guidance), targets)
    nll = denoiser(tokens_BL, logits_at=flat, targets=targets, attention=attention, cache=cache).nll
    assert nll is not None, "a denoiser given targets returns their negative log-likelihood"
    return nll


def logits_at(
    denoiser: Denoiser,
    tokens_BL: Int[Tensor, "B L"],
    flat: Int[Tensor, " n"],
    *,
    attention: AttentionSpec | None = None,
    cache: KVCache | None = None,
    guidance: Guidance | None = None,
) -> Float[Tensor, "n V"]:
    """Logits at flat positions, guided if so asked; then there is no cache."""
    given = denoiser(tokens_BL, logits_at=flat, attention=attention, cache=cache).logits
    assert given is not None, "a denoiser given no targets returns logits"
    if guidance is None:
        return given
    without_BL = absorb(tokens_BL, guidance.prompt_BL, guidance.mask_token_id)
    bare = denoiser(without_BL, logits_at=flat, attention=attention).logits
    assert bare is not None, "a denoiser given no targets returns logits"
    return guided(given, bare, guidance.scale)


def guided(given: Float[Tensor, "n V"], bare: Float[Tensor, "n V"], scale: float) -> Float[Tensor, "n V"]:
    """Logits with guidance, out of those with the prompt and those without it."""
    return bare + (scale + 1) * (given - bare)


def cross_entropy(logits: Float[Tensor, "n V"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Of each row, nats, in float32."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def by_prompt(pairs: Sequence[Pair]) -> list[int]:
    """Indices of pairs, those whose prompts begin alike together."""
    return sorted(range(len(pairs)), key=lambda i: (list(pairs[i][0]), -len(pairs[i][1])))


def by_length(pairs: Sequence[Pair]) -> list[int]:
    """Indices of pairs, the longest first, of equal ones those with the same prompt together."""
    return sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]) - len(pairs[i][1]), list(pairs[i][0])))


@dataclass(frozen=True)
class Fed:
    """Rows of any lengths as the denoiser takes them.

    Attributes:
        tokens_BL: int64, padded at the ends, on the denoiser's device.
        attention: hides what is padded, where that is needed.
        starts: the column of each row's first token; what is before it is in the `cache`.
    """

    tokens_BL: Int[Tensor, "B L"]
    attention: AttentionSpec | None = None
    starts: Sequence[int] = ()
    cache: KVCache | None = None

    @staticmethod
    def of(rows: Sequence[Tensor], device: torch.device | str) -> Fed:
        """Lay out int64 ids, `[L]` of each row."""
        tokens_BL = pad_sequence(list(rows), batch_first=True)
        length_B1 = torch.tensor([[len(row)] for row in rows])
        attention = None
        if int(length_B1.min()) < tokens_BL.shape[1]:
            document_BL = (torch.arange(tokens_BL.shape[1]) < length_B1).long() - 1
            attention = AttentionSpec(document_BL=document_BL.to(device), packed=False)
        return Fed(tokens_BL.to(device), attention, [0] * len(rows))

    def guidance(self, scale: float, prompts: Sequence[int], mask_token_id: int) -> Guidance:
        """Guidance that hides so many first tokens of each row."""
        column_L = torch.arange(self.tokens_BL.shape[1])
        prompt_BL = column_L < torch.tensor(prompts)[:, None]
        return Guidance(scale, prompt_BL.to(self.tokens_BL.device), mask_token_id)


Question = tuple[Tensor, Tensor, int]


@dataclass(frozen=True)
class _Row:
    """A row to be fed; and at which columns which targets are asked for, in which slot."""

    ids: Int[Tensor, " L"]
    prompt: int
    asked: list[Question]


class Asked(NamedTuple):
    """What one forward is asked: row by row, question by question.

    Attributes:
        fed: the rows. prompts: how many first columns of each guidance hides.
        flat, targets: int64 `[n]`; where among what is fed, and which ids, on the CPU.
        slot_n, column_n: int64 `[n]`; whose token each is, and its column in its row.
    """

    fed: Fed
    prompts: list[int]
    flat: Tensor
    targets: Tensor
    slot_n: Tensor
    column_n: Tensor

    @staticmethod
    def of(rows: Sequence[_Row], fed: Fed) -> Asked:
        """What rows ask, as they are fed."""
        width = fed.tokens_BL.shape[1]
        lines = zip(rows, fed.starts, strict=True)
        asked = [(row * width - start, question) for row, (line, start) in enumerate(lines) for question in line.asked]
        return Asked(
            fed,
            [row.prompt for row in rows],
            torch.cat([shift + at for shift, (at, _, _) in asked]),
            torch.cat([targets for _, (_, targets, _) in asked]),
            torch.cat([torch.full(at.shape, slot) for _, (at, _, slot) in asked]),
            torch.cat([at for _, (at, _, _) in asked]),
        )


@dataclass
class Questions:
    """Rows to be fed, equal ones once, and the cross-entropies that are asked for at them.

    Attributes:
        batch_size: rows per forward.
        device: where the denoiser is.
        is_causal: rows see nothing behind a position, so that padding there needs no hiding, and what rows begin with
            in common is computed once, by a denoiser that has a cache.
        shares: False: it is not.
        guidance_scale, mask_token_id: of classifier-free guidance; 0 is none. Not of causal rows.
    """

    batch_size: int
    device: torch.device | str = "cpu"
    is_causal: bool = False
    shares: bool = True
    guidance_scale: float = 0.0
    mask_token_id: int = 0
    rows: dict[tuple[int, bytes], _Row] = field(default_factory=dict[tuple[int, bytes], _Row])
    slots: int = 0

    def ask(self, ids: Int[Tensor, " L"], at: Int[Tensor, " n"], targets: Int[Tensor, " n"], *, prompt: int = 0) -> int:
        """Ask for the negative log-likelihoods of `targets` at the columns `at` of a row.

        Args:
            ids: int64 `[L]`, on the CPU, as all.
            at: int64 `[n]` columns. targets: int64 `[n]`.
            prompt: how many of the first columns guidance hides.

        Returns:
            The slot of the answer.
        """
        key = prompt if self.guidance_scale else 0, ids.numpy().tobytes()
        row = self.rows.setdefault(key, _Row(ids, prompt, []))
        row.asked.append((at, targets, self.slots))
        self.slots += 1
        return self.slots - 1

    @torch.no_grad()
    def tokens(self, denoiser: Denoiser) -> tuple[Float64[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
        """The negative log-likelihood of every token asked for, its slot and its column, in the order of the slots.

        Nats, on the CPU; the next questions start anew.
        """
        none = torch.zeros(0, dtype=torch.int64)
        nll, slot, column = [torch.zeros(0)], [none], [none]
        for asked in self.forwards(denoiser):
            nll.append(self._nll(denoiser, asked))
            slot.append(asked.slot_n)
            column.append(asked.column_n)
        slot_n = torch.cat(slot)
        order = slot_n.argsort(stable=True)
        return torch.cat([part.cpu().double() for part in nll])[order], slot_n[order], torch.cat(column)[order]

    def forwards(self, denoiser: Denoiser) -> Iterator[Asked]:
        """What to ask the denoiser, each before the next is asked for; the next questions start anew."""
        rows = [row for row in self.rows.values() if any(len(at) for at, _, _ in row.asked)]
        self.rows, self.slots = {}, 0
        for chunk, fed in self._causal(denoiser, rows) if self.is_causal else self._whole(rows):
            yield Asked.of(chunk, fed)

    def _whole(self, rows: list[_Row]) -> Iterator[tuple[list[_Row], Fed]]:
        # rows of one length together: nothing is padded, or little
        rows = sorted(rows, key=lambda row: len(row.ids), reverse=True)
        for start in range(0, len(rows), self.batch_size):
            chunk = rows[start : start + self.batch_size]
            yield chunk, Fed.of([row.ids for row in chunk], self.device)

    def _causal(self, denoiser: Denoiser, rows: list[_Row]) -> Iterator[tuple[list[_Row], Fed]]:
        new_cache = getattr(denoiser, "new_cache", None) if self.shares else None
        firsts = [min(int(at.min()) for at, _, _ in row.asked if len(at)) for row in rows]
        lines = [Line.of(row.ids, first) for row, first in zip(rows, firsts, strict=True)]
        for rest in rests(denoiser, new_cache, lines, batch_size=self.batch_size, device=self.device):
            fed = Fed(rest.tokens_BL, starts=rest.starts, cache=rest.cache)
            yield [rows[number] for number in rest.numbers], fed

    def _nll(self, denoiser: Denoiser, asked: Asked) -> Tensor:
        fed, guidance = asked.fed, None
        if self.guidance_scale:
            guidance = fed.guidance(self.guidance_scale, asked.prompts, self.mask_token_id)
        flat, targets = asked.flat.to(self.device), asked.targets.to(self.device)
        return nll_at(
            denoiser, fed.tokens_BL, flat, targets, attention=fed.attention, cache=fed.cache, guidance=guidance
        )
