"""The most probable token at each place and its log-probability, in one pass of `trunk.cpp` over the logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.models.native.library import library, pointer

_A_THREADS = 2**18


class NativeJudge:
    """What to propose where nothing is drawn and nothing filtered."""

    def __init__(self) -> None:
        self._library = library()
        self._never: tuple[tuple[int, ...], Tensor] = ((), torch.empty(0, dtype=torch.int64))

    def __call__(self, logits_nV: Tensor, pending_BL: Tensor, never: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Int64 and float32 `[B, L]`: at each place that is pending, in their order, the first of a row's highest
        numbers but those of `never`, and its log-probability among the others, nats; not a number where the row holds
        one. Elsewhere 0 and -inf. None: not logits for this.

        Raises:
            ValueError: there are not as many rows as places.
        """
        if self._library is None or logits_nV.dtype != torch.float32 or logits_nV.device.type != "cpu":
            return None
        if self._never[0] != never:
            self._never = tuple(never), torch.tensor(list(never), dtype=torch.int64)
        logits_nV, pending_BL, left_out = logits_nV.contiguous(), pending_BL.contiguous(), self._never[1]
        rows, words = logits_nV.shape
        token_BL, log_prob_BL = torch.empty(pending_BL.shape, dtype=torch.int64), torch.empty(pending_BL.shape)
        # to start a thread takes as long as some ten thousand numbers
        threads = min(torch.get_num_threads(), max(1, logits_nV.numel() // _A_THREADS))
        given = pointer(logits_nV), rows, words, pointer(left_out), len(left_out)
        found = pointer(token_BL), pointer(log_prob_BL)
        if not self._library.judge(*given, threads, pointer(pending_BL), pending_BL.numel(), *found):
            raise ValueError(f"{rows} rows of logits for {int(pending_BL.sum())} places")
        return token_BL, log_prob_BL
