"""One call of the denoiser, and what may stand beside the rows in it: shadows, other states, an unconditional half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from unmask.generation.canvas import Canvas
from unmask.generation.guidance import stacked
from unmask.types import AttentionSpec


@dataclass(frozen=True)
class Call:
    """What the denoiser is given; see `types.Denoiser`."""

    tokens_BL: Tensor
    attention: AttentionSpec | None
    at_n: Tensor
    cache: Any = None
    positions_BL: Tensor | None = None


def shadowed(call: Call, first_B: Int[Tensor, " B"], hidden_BW: Bool[Tensor, "B W"], mask_token_id: int) -> Call:
    """With a masked twin of each position of the block, which sees everything but its original and is seen by none."""
    (rows, width), length = hidden_BW.shape, call.tokens_BL.shape[1]
    shadow_BW = first_B[:, None] + torch.arange(width, device=first_B.device)
    real_BL = torch.arange(length, device=first_B.device).expand(rows, length)
    positions_BL = torch.cat([real_BL, shadow_BW], 1)
    document_BL = torch.zeros_like(real_BL)
    if call.attention is not None and call.attention.document_BL is not None:
        document_BL = call.attention.document_BL
    spec = AttentionSpec(
        "leave_one_out",
        document_BL=torch.cat([document_BL, torch.zeros_like(shadow_BW)], 1),
        packed=False,
        block_BL=positions_BL,
        stream_BL=torch.cat([torch.zeros_like(real_BL), torch.ones_like(shadow_BW)], 1),
    )
    row_n, place_n = hidden_BW.nonzero().unbind(1)
    at_n = call.at_n // length * (length + width) + call.at_n % length
    return Call(
        tokens_BL=torch.cat([call.tokens_BL, torch.full_like(shadow_BW, mask_token_id)], 1),
        attention=spec,
        at_n=torch.cat([at_n, row_n * (length + width) + length + place_n]),
        positions_BL=positions_BL,
    )


def copied(call: Call, firsts: Sequence[int], drafts: Sequence[Canvas], at: Sequence[Tensor]) -> Call:
    """With a copy of all rows for each draft of their blocks; `at`: where logits are wanted of each, as in `call`."""
    (rows, length), width = call.tokens_BL.shape, drafts[0].tokens_BL.shape[1]
    first_B = torch.tensor(firsts, dtype=torch.int64, device=call.tokens_BL.device)
    where = (
        torch.arange(rows, device=first_B.device)[:, None],
        first_B[:, None] + torch.arange(width, device=first_B.device),
    )
    copies: list[Tensor] = []
    for draft in drafts:
        # a block may reach behind what is fed
        tokens_BL = pad(call.tokens_BL, (0, width))
        tokens_BL[where] = draft.tokens_BL
        copies.append(tokens_BL[:, :length])
    size = call.tokens_BL.numel()
    return replace(
        call,
        tokens_BL=torch.cat([call.tokens_BL, *copies]),
        attention=stacked(call.attention, rows, copies=1 + len(drafts)),
        at_n=torch.cat([call.at_n, *(at_n + size * (1 + number) for number, at_n in enumerate(at))]),
    )


def guided(call: Call, hidden_BL: Bool[Tensor, "B L"], mask_token_id: int) -> Call:
    """With the same rows once more, their given text hidden; what stands beside the tokens is as before."""
    copies, beside = len(call.tokens_BL) // len(hidden_BL), call.tokens_BL.shape[1] - hidden_BL.shape[1]
    rows, is_hidden_BL = len(call.tokens_BL), pad(hidden_BL.repeat(copies, 1), (0, beside))
    positions_BL = call.positions_BL
    if positions_BL is not None and len(positions_BL) > 1:
        positions_BL = positions_BL.repeat(2, 1)
    return replace(
        call,
        tokens_BL=torch.cat([call.tokens_BL, call.tokens_BL.masked_fill(is_hidden_BL, mask_token_id)]),
        attention=stacked(call.attention, rows, copies=2),
        at_n=torch.cat([call.at_n, call.at_n + call.tokens_BL.numel()]),
        positions_BL=positions_BL,
    )
