"""Attention over a sparse pattern, a tile of queries at a time, each over the keys that any of its queries sees.

No mask over all pairs ever exists. On a CPU a tile is one call of the dense kernel; on a GPU the same tiles become the
block mask of flex_attention. What the pattern means is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.amp.autocast_mode import custom_bwd, custom_fwd

# queries of a tile: fewer waste less of the pattern's edges, more waste less time between kernels
TILE = 128

Pattern = Callable[[Tensor], Tensor | None]
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Tile:
    """Some queries, and all that they see.

    Attributes:
        rows: the queries' columns. keys: columns of the keys, a slice or int64 `[k]`.
        mask: bool `[B or 1, 1, rows, k]`; None: each of the queries sees each of the keys.
    """

    rows: slice
    keys: slice | Tensor
    mask: Tensor | None


def tiles_of(seen: Pattern, columns: Tensor) -> tuple[Tile, ...]:
    """Cut a pattern into tiles; on a GPU this waits for the device.

    Args:
        seen: which of all columns the queries at int64 columns `[1, q]` see, bool `[B or 1, q, L]`; at least one each.
        columns: int64 `[L]`; all of them.
    """
    return tuple(_tile(seen, columns, start) for start in range(0, len(columns), TILE))


def _tile(seen: Pattern, columns: Tensor, start: int) -> Tile:
    rows = slice(start, min(start + TILE, len(columns)))
    seen_BQK = seen(columns[rows][None])
    assert seen_BQK is not None, "a pattern of tiles hides something"
    if seen_BQK.shape[0] > 1 and bool((seen_BQK == seen_BQK[:1]).all()):
        seen_BQK = seen_BQK[:1]
    keys = seen_BQK.any(dim=1).any(dim=0).nonzero().squeeze(1)
    mask = seen_BQK[:, :, keys].unsqueeze(1)
    first, last = int(keys[0]), int(keys[-1])
    together = last - first + 1 == len(keys)
    return Tile(rows, slice(first, last + 1) if together else keys, None if bool(mask.all()) else mask)


def attend_by_tiles(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLK: Tensor, tiles: tuple[Tile, ...], kernel: Kernel) -> Tensor:
    """Attention tile by tile; `kernel` takes queries, keys, values and a mask. Returns `[B, H, L, K]`."""
    return _ByTiles.apply(q_BHLK, k_BGLK, v_BGLK, tiles, kernel)  # type: ignore[no-any-return]


class _ByTiles(torch.autograd.Function):
    """The backward pass computes each tile again: kept, the keys of all tiles would be several times all keys."""

    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, tiles: tuple[Tile, ...], kernel: Kernel) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.tiles, ctx.kernel = tiles, kernel
        out = None
        for tile in tiles:
            part = kernel(*_taken(q, k, v, tile), tile.mask)
            out = part.new_empty(q.shape) if out is None else out
            out[:, :, tile.rows] = part
        assert out is not None, "there is at least one tile"
        return out

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        q, k, v = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for tile in ctx.tiles:
            taken = [part.detach().requires_grad_() for part in _taken(q, k, v, tile)]
            with torch.enable_grad():
                out = ctx.kernel(*taken, tile.mask)
            dq[:, :, tile.rows], of_keys, of_values = torch.autograd.grad(out, taken, gradient[:, :, tile.rows])
            dk[:, :, tile.keys] += of_keys
            dv[:, :, tile.keys] += of_values
        return dq, dk, dv, None, None


def _taken(q: Tensor, k: Tensor, v: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    return q[:, :, tile.rows], k[:, :, tile.keys], v[:, :, tile.keys]
