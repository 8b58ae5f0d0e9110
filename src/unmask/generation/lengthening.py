"""Answers whose length is found while they are written (DAEDAL, arXiv:2508.00819), for full attention.

An answer begins short. Before anything is written, masks are added at its end until its last tokens are predicted to be
stop tokens. While it is written, the mask of the active block that the model knows least about becomes several, as long
as the end is not sure. Each row goes by itself. Knows logits and rows, no model; the loop asks and does as it is told.

The paper's program also puts stop tokens behind the answer once its length is found; here nothing is written that was
not predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.errors import ConfigError
from unmask.generation.canvas import Canvas, on_host
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Row
from unmask.generation.trace import Commit
from unmask.generation.written import Written


class Lengthening:
    """Decides which rows grow, and where."""

    def __init__(self, options: GenerationOptions, stop_token_ids: Sequence[int], never: Sequence[int]) -> None:
        self.options, self.never = options, list(never)
        self.stop_token_ids = torch.tensor([token for token in stop_token_ids if token not in never])

    def tails(self, rows: Sequence[Row]) -> list[range]:
        """The last columns of each row's answer, which are asked whether they are its end."""
        return [range(max(row.text, row.end - self.options.end_window), row.end) for row in rows]

    def certainties(
        self, rows: Sequence[Row], places: Sequence[int], live: Canvas, logits_nV: Float[Tensor, "n V"]
    ) -> list[float]:
        """How sure it is, from 0 to 1, that each row's tail holds nothing but stop tokens.

        Args:
            rows, places: the rows and their indices in `live`.
            logits_nV: at all `tails`, row by row.
        """
        stops = self.stop_token_ids.to(logits_nV.device)
        logits_nV = logits_nV.to(torch.promote_types(logits_nV.dtype, torch.float32), copy=True)
        logits_nV[:, self.never] = -torch.inf
        best_n = logits_nV.softmax(-1).max(-1)
        tails = self.tails(rows)
        row_n = live.column([place for place, tail in zip(places, tails, strict=True) for _ in tail])
        column_n = live.column([column for tail in tails for column in tail])
        first_n = live.column([row.text + self.options.min_new_tokens for row in rows for _ in self.tails([row])[0]])
        is_masked_n, token_n = live.is_masked_BL[row_n, column_n], live.tokens_BL[row_n, column_n]
        # what is written is certain
        token_n = torch.where(is_masked_n, best_n.indices, token_n)
        sure_n = torch.where(is_masked_n, best_n.values, 1.0)
        sure_n = sure_n.masked_fill(~torch.isin(token_n, stops) | (column_n < first_n), 0.0)
        parts = torch.split(sure_n, [len(tail) for tail in tails])
        return [total / self.options.end_window for total in on_host(torch.stack([part.sum() for part in parts]))]

    def room(self, row: Row) -> int:
        """How many tokens a row may still grow by."""
        return row.text + self.options.max_new_tokens - row.end

    def is_short(self, row: Row, certainty: float) -> bool:
        """Whether a row of which nothing is written grows at its end."""
        return not row.is_measured and certainty < self.options.end_threshold and self.room(row) > 0

    def inserts(self, rows: Sequence[Row], certainties: Sequence[float], written: Written) -> list[int | None]:
        """For each row of a step, the column of the mask in whose place several are put; None: it stays as it is."""
        proposal, after = written.proposal, written.window
        is_left_BW = proposal.pending_BL & after.is_masked_BL
        doubt_BW = proposal.log_prob_BL.masked_fill(~is_left_BW, torch.inf)
        least_B = doubt_BW.min(1)
        is_low_B = least_B.values.exp() < self.options.insert_threshold
        found = zip(rows, certainties, written.firsts, on_host(is_low_B), on_host(least_B.indices), strict=True)
        return [
            first + place if is_low and sure < self.options.insert_end_threshold and self.room(row) > 0 else None
            for row, sure, first, is_low, place in found
        ]


def grown(row: Row, step: int, before: Canvas, after: Canvas, place: int, column: int, count: int) -> Commit:
    """What became of a row when `count` masks were put before a column: as a commit, written tokens having moved.

    Args:
        row: before it took that in.
        step: number of the step it belongs to.
        before, after: all rows, before and afterwards; the row is number `place` of them.
    """
    was_masked, is_masked = (on_host(canvas.is_masked_BL[place]) for canvas in (before, after))
    tokens = on_host(after.tokens_BL[place])
    end = row.end + count
    moved = tuple(at for at in range(column, end) if not is_masked[at])
    remasked = tuple(at for at in range(column, end) if is_masked[at] and (at >= row.end or not was_masked[at]))
    return Commit(
        row=row.number,
        step=step,
        block=row.block,
        positions=moved,
        token_ids=tuple(tokens[at] for at in moved),
        confidences=(1.0,) * len(moved),
        remasked=remasked,
    )


def lengthening_for(
    options: GenerationOptions, stop_token_ids: Sequence[int], never: Sequence[int], *, hides_later: bool
) -> Lengthening | None:
    """The lengthening that was asked for, if any.

    Raises:
        ConfigError: it does not go with the attention, the cache or speculation, or no token ends an answer.
    """
    if not options.open_length:
        return None
    if hides_later:
        raise ConfigError(
            "open_length is for models in which everybody sees everybody; here blocks see nothing behind them, so that "
            "an answer ends where it ends whatever max_new_tokens is. Leave open_length out and raise max_new_tokens."
        )
    if options.cache not in ("none", "auto"):
        raise ConfigError(f'open_length moves tokens, which cache "{options.cache}" cannot follow. Use cache none.')
    if options.speculate:
        raise ConfigError(f"open_length and speculate {options.speculate} do not go together. Leave one of them out.")
    if not set(stop_token_ids) - set(never):
        raise ConfigError(
            "open_length looks for the end of the answer, and no token ends it here. It needs early_stop, and a model "
            "with a stop token that is not suppressed."
        )
    return Lengthening(options, stop_token_ids, never)
