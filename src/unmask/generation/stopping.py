"""When a row is finished. Knows no model and no strategy."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from unmask.generation.canvas import Canvas


def finished_B(canvas: Canvas, stop_token_ids: tuple[int, ...]) -> Bool[Tensor, " B"]:
    """Rows in which a stop token was written and nothing before it is masked: what follows cannot matter.

    A stop token in the given text does not count; padding holds none (it is filled with the mask token).
    """
    if not stop_token_ids:
        return torch.zeros(len(canvas.tokens_BL), dtype=torch.bool, device=canvas.tokens_BL.device)
    stops = torch.tensor(stop_token_ids, dtype=torch.int64, device=canvas.tokens_BL.device)
    is_stop_BL = torch.isin(canvas.tokens_BL, stops)
    if stops.device.type == "cpu" and not is_stop_BL.any():  # a processor need not be waited for
        return is_stop_BL.any(1)
    is_stop_BL &= ~canvas.is_masked_BL & ~canvas.given_BL
    has_gap_before_BL = canvas.is_masked_BL.cumsum(1) > 0
    return (is_stop_BL & ~has_gap_before_BL).any(1)


def cut(token_ids: list[int], stop_token_ids: tuple[int, ...]) -> tuple[list[int], bool]:
    """The ids before the first stop token, and whether there was one."""
    for index, token_id in enumerate(token_ids):
        if token_id in stop_token_ids:
            return token_ids[:index], True
    return token_ids, False
