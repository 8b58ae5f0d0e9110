"""From the logits of some rows' active blocks to what is written there: the quota, the proposal, the strategy's choice.

Knows neither the denoiser nor how the rows go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.diffusion.keys import Purpose
from unmask.diffusion.posterior import reveal_counts
from unmask.generation.canvas import Canvas
from unmask.generation.grammar import Grammar, Look
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Judge, Proposal, Rules, propose, verified
from unmask.generation.rows import Row
from unmask.generation.strategy import DecodingStrategy, Step, Transfer
from unmask.registry import NOISE_SCHEDULES, STRATEGIES


class Chooser:
    """A strategy with all that it is told.

    Attributes:
        reads_filled, verifies: see `DecodingStrategy`.
        never: ids that are not proposed, the mask among them.
        forgets: what it chooses depends on nothing that it saw before.
    """

    def __init__(
        self,
        options: GenerationOptions,
        *,
        mask_token_id: int | None,
        stop_token_ids: tuple[int, ...],
        steps: int,
        block_size: int,
        counts_given: bool,
        rows: int,
        judge: Judge | None = None,
    ) -> None:
        """Args: `counts_given`: given text at a block's beginning has its share of the block's steps, as in LLaDA2."""
        self.options, self.steps, self.block_size, self.counts_given = options, steps, block_size, counts_given
        self.stop_token_ids = stop_token_ids
        self.never = (*(() if mask_token_id is None else (mask_token_id,)), *options.suppress_tokens)
        self._rules = Rules(
            never=self.never,
            last=tuple(options.begin_suppress_tokens),
            among=(options.top_k, options.top_p),
            temperature=options.temperature,
            precise=options.precise_sampling,
            judge=judge,
        )
        self._strategy: DecodingStrategy = STRATEGIES.get(options.strategy)(options)
        self._state: Any = self._strategy.init(rows)
        self._schedule = NOISE_SCHEDULES.get(options.noise_schedule)()
        self._quotas: dict[int, Sequence[Tensor]] = {}
        self._together: tuple[list[int], Sequence[Tensor]] = [], ()
        self._zeros_B = torch.empty(0, dtype=torch.int64)
        self.reads_filled = bool(getattr(self._strategy, "reads_filled", False))
        self._adjusted = getattr(self._strategy, "adjusted", None)
        self.verifies = bool(getattr(self._strategy, "verifies", False))
        self.forgets = self._state is None
        self._grammar = Grammar(options, stop_token_ids if options.early_stop else (), self.never)

    def begin(self, row: Row, *, is_whole: bool) -> None:
        """Take a row in; `is_whole`: it is filled in, not continued.

        Raises:
            ConfigError: it has a language, and no text of it fits.
        """
        self._grammar.begin(row, is_whole=is_whole)

    def asked(self, window: Canvas) -> tuple[Tensor, Tensor | None]:
        """Where logits are wanted, and where with the token hidden."""
        if not self.reads_filled and not self.verifies:
            return window.is_masked_BL, None
        filled_BW = ~window.is_masked_BL & ~window.given_BL
        wanted_BW = window.is_masked_BL | filled_BW if self.reads_filled else window.is_masked_BL
        return wanted_BW, filled_BW if self.verifies else None

    def choose(
        self,
        rows: Sequence[Row],
        firsts: Sequence[int],
        window: Canvas,
        logits_nV: Float[Tensor, "n V"],
        number: int,
        *,
        ahead: int = 0,
    ) -> tuple[Step, Proposal, Transfer]:
        """What to write.

        Args:
            rows, firsts, window: the rows, where their active blocks begin, and these.
            logits_nV: at what was `asked`.
            number: of the step.
            ahead: how many steps lie between the rows' last one and this.
        """
        step = self._step(rows, window, number, ahead)
        look = self._grammar.look(rows, firsts, window)
        proposal = self._proposal(rows, firsts, window, logits_nV, step, look)
        transfer = self._strategy.select(proposal, window, step, self._state)
        if look is not None:
            proposal, transfer = self._grammar.settled(look, proposal, transfer)
        return step, proposal, transfer

    def _step(self, rows: Sequence[Row], window: Canvas, number: int, ahead: int) -> Step:
        withins = tuple(row.within + ahead for row in rows)
        if 0 in withins:
            # as LLaDA2: where a block begins with given text, steps are for that, too
            masks_B = window.column(window.ends) if self.counts_given else window.is_masked_BL.sum(1)
            counts_BS = reveal_counts(masks_B, self.steps, how=self.options.reveal, schedule=self._schedule)
            # all that is beyond has no tokens either
            counts_BS = counts_BS[:, : self.block_size + 1]
            for row, within, counts_S in zip(rows, withins, counts_BS, strict=True):
                if within == 0:
                    self._quotas[row.slot] = counts_S.unbind()
            is_joint = not any(withins)
            self._together = ([row.slot for row in rows], counts_BS.unbind(1)) if is_joint else ([], ())
        if len(self._zeros_B) != len(rows):
            self._zeros_B = torch.zeros(len(rows), dtype=torch.int64, device=window.tokens_BL.device)
        return Step(
            number=number,
            blocks=tuple(row.block for row in rows),
            withins=withins,
            block_size=self.block_size,
            first_B=self._zeros_B,
            quota_B=self._quota_B([row.slot for row in rows], withins),
            seeds=tuple(row.seed for row in rows),
            growths=tuple(row.growths for row in rows),
        )

    def _quota_B(self, slots: list[int], withins: Sequence[int]) -> Tensor:
        """Int64 `[B]`: how many tokens each row is asked for."""
        last = min(self.steps - 1, self.block_size)
        places = [min(within, last) for within in withins]
        # rows that began their blocks together, as most do, have them side by side
        if slots == self._together[0] and len(set(places)) == 1:
            return self._together[1][places[0]]
        return torch.stack([self._quotas[slot][place] for slot, place in zip(slots, places, strict=True)])

    def _proposal(
        self,
        rows: Sequence[Row],
        firsts: Sequence[int],
        window: Canvas,
        logits_nV: Float[Tensor, "n V"],
        step: Step,
        look: Look | None,
    ) -> Proposal:
        options, (wanted_BW, hidden_BW) = self.options, self.asked(window)
        hidden_mV = None
        if hidden_BW is not None:
            asked = int(wanted_BW.sum())
            logits_nV, hidden_mV = logits_nV[:asked], logits_nV[asked:]
        if look is not None:
            logits_nV = self._grammar.masked(look, wanted_BW, logits_nV)
            if hidden_mV is not None and hidden_BW is not None:
                hidden_mV = self._grammar.masked(look, hidden_BW, hidden_mV)
            wanted_BW, logits_nV = self._grammar.free(look, wanted_BW, logits_nV)
        if options.min_new_tokens and self.stop_token_ids:
            logits_nV = self._without_early_stops(rows, firsts, wanted_BW, logits_nV)
        if self._adjusted is not None:
            logits_nV = logits_nV.to(torch.float64 if options.precise_sampling else torch.float32, copy=True)
            logits_nV[:, list(self.never)] = -torch.inf
            logits_nV = self._adjusted(logits_nV, wanted_BW, window, step, self._state)
        uniform_n = None
        if options.temperature > 0:
            uniform_n = step.uniforms_BL(Purpose.SAMPLE, wanted_BW.shape[1])[wanted_BW]
        proposal = propose(logits_nV, wanted_BW, self._rules, uniform_n=uniform_n)
        if hidden_mV is None or hidden_BW is None:
            return proposal
        return verified(proposal, hidden_mV, hidden_BW, window.tokens_BL, never=self.never)

    def _without_early_stops(
        self, rows: Sequence[Row], firsts: Sequence[int], wanted_BW: Tensor, logits_nV: Float[Tensor, "n V"]
    ) -> Float[Tensor, "n V"]:
        """No stop token among the first tokens of an answer."""
        device = wanted_BW.device
        left = [row.text + self.options.min_new_tokens - first for row, first in zip(rows, firsts, strict=True)]
        is_early_BW = torch.arange(wanted_BW.shape[1], device=device) < torch.tensor(left, device=device)[:, None]
        is_stop_V = torch.zeros(logits_nV.shape[1], dtype=torch.bool, device=device)
        is_stop_V[list(self.stop_token_ids)] = True
        return logits_nV.masked_fill(is_early_BW[wanted_BW][:, None] & is_stop_V, -torch.inf)
