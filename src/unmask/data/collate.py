"""Tokenised rows -> a `Batch`: the padding policies, packed rows, positions and attention of rows of unequal length.

`eos`         pad with end-of-text tokens that are seen, noised and learned, to where the plan of the run says: the
              longest row of the whole update (LLaDA's fine-tuning; to the longest of a micro-batch would change the
              gradient with its size), or a number of them that is the row's own (see `ends`)
`none`        padding is invisible and not learned
`block`       end-of-text tokens up to the edge of a block are learned, the rest is invisible
`max_length`  end-of-text tokens up to `max_length` are learned

It knows neither time nor masks: the objective noises the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmask.data.ends import Padding, block_end
from unmask.types import AttentionSpec, Batch, SampleKeys


@dataclass(frozen=True)
class Visit:
    """One sample on its way through the run.

    Attributes:
        number: place in the run's visiting order. row: of the dataset. epoch: how often the dataset was seen before.
        length: tokens to use of the row; the rest is cut off.
        padded: learned padding reaches up to here (policy `eos`).
        counted: False fills up a rank's last batch: nothing of it is noised or counted.
        bin: samples of the same bin, one after the other, are laid end to end in one row; None: a row of its own.
        update: that it belongs to.
    """

    number: int
    row: int
    epoch: int
    length: int
    padded: int
    counted: bool = True
    bin: int | None = None
    update: int = 0


@dataclass(frozen=True)
class Collator:
    """Make a `Batch` of visited rows.

    Attributes:
        eos_token_id: the padding that is learned. pad_token_id: the padding that is not.
        padding: the policy. block_size: for `block`. max_length: for `max_length`.
        width: tokens of packed rows at least, so that all batches have one shape; None: as many as the longest has.
    """

    eos_token_id: int
    pad_token_id: int
    padding: Padding = "eos"
    block_size: int = 32
    max_length: int = 1024
    width: int | None = None

    def __call__(self, rows: Sequence[tuple[Visit, Mapping[str, Any]]]) -> Batch:
        """Collate; each record has `input_ids`, and `may_noise` or `document` (all noisable, several documents)."""
        visits = [visit for visit, _ in rows]
        learned = [self._learned_length(visit) for visit in visits]
        places = _places(visits, learned)
        packed = any(visit.bin is not None for visit in visits)
        longest = max(start + end for (_, start), end in zip(places, learned, strict=True))
        shape = (places[-1][0] + 1, max(longest, self.width or 0) if packed else longest)
        x0_BL = torch.full(shape, self.pad_token_id, dtype=torch.int64)
        may_noise_BL = torch.zeros(shape, dtype=torch.bool)
        document_BL, sample_BL = torch.full(shape, -1), torch.full(shape, -1)
        for index, ((visit, record), (row, start), end) in enumerate(zip(rows, places, learned, strict=True)):
            length, here = visit.length, slice(start, start + end)
            used, rest = slice(start, start + length), slice(start + length, start + end)
            x0_BL[row, used] = _tensor(record["input_ids"], length)
            x0_BL[row, rest] = self.eos_token_id
            if visit.counted:
                may_noise_BL[row, used] = _tensor(record["may_noise"], length) if "may_noise" in record else True
                may_noise_BL[row, rest] = True
            before = int(document_BL[row, start - 1]) + 1 if start else 0
            document_BL[row, here] = before
            if "document" in record:
                document_BL[row, used] = before + _tensor(record["document"], length)
            sample_BL[row, here] = index
        attention, positions_BL = _layout(document_BL)
        return Batch(x0_BL, may_noise_BL, sample_BL, _keys(visits), attention, positions_BL)

    def _learned_length(self, visit: Visit) -> int:
        """Tokens of a row up to the end of its learned padding."""
        if self.padding == "eos":
            return max(visit.padded, visit.length)
        if self.padding == "block":
            return block_end(visit.length, self.block_size)
        return self.max_length if self.padding == "max_length" else visit.length


def _places(visits: Sequence[Visit], learned: Sequence[int]) -> list[tuple[int, int]]:
    """Row and first column of each sample."""
    places: list[tuple[int, int]] = []
    row, column, bin_before = -1, 0, None
    for visit, end in zip(visits, learned, strict=True):
        if visit.bin is None or visit.bin != bin_before:
            row, column = row + 1, 0
        places.append((row, column))
        column, bin_before = column + end, visit.bin
    return places


def _tensor(values: Any, length: int) -> Tensor:
    return torch.as_tensor(values[:length])


def _keys(visits: Sequence[Visit]) -> SampleKeys:
    return SampleKeys(
        visit_S=torch.tensor([visit.number for visit in visits]),
        row_S=torch.tensor([visit.row for visit in visits]),
        epoch_S=torch.tensor([visit.epoch for visit in visits]),
        update_S=torch.tensor([visit.update for visit in visits]),
    )


def _layout(document_BL: Tensor) -> tuple[AttentionSpec | None, Tensor | None]:
    """The least attention pattern that separates documents and hides padding, and positions that restart."""
    if bool((document_BL > 0).any()):
        column = torch.arange(document_BL.shape[1]).expand_as(document_BL)
        starts = torch.ones_like(document_BL, dtype=torch.bool)
        starts[:, 1:] = document_BL[:, 1:] != document_BL[:, :-1]
        first = column.where(starts, 0).cummax(dim=1).values
        return AttentionSpec(document_BL=document_BL), column - first
    if bool((document_BL < 0).any()):
        return AttentionSpec(document_BL=document_BL, packed=False), None
    return None, None
