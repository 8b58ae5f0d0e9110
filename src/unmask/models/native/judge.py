"""The most probable token of each row of logits and its log-probability, in one pass of `trunk.cpp`."""

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

    def __call__(self, logits_nV: Tensor, never: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Int64 and float32 `[n]`: the first of each row's highest numbers but those of `never`, and its
        log-probability among the others, nats; not a number where the row holds one. None: not logits for this.
        """
        if self._library is None or logits_nV.dtype != torch.float32 or logits_nV.device.type != "cpu":
            return None
        if self._never[0] != never:
            self._never = tuple(never), torch.tensor(list(never), dtype=torch.int64)
        logits_nV, left_out = logits_nV.contiguous(), self._never[1]
        rows, words = logits_nV.shape
        token_n, log_prob_n = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
        # to start a thread takes as long as some ten thousand numbers
        threads = min(torch.get_num_threads(), max(1, logits_nV.numel() // _A_THREADS))
        where = pointer(logits_nV), rows, words, pointer(left_out), len(left_out)
        self._library.judge(*where, threads, pointer(token_n), pointer(log_prob_n))
        return token_n, log_prob_n
