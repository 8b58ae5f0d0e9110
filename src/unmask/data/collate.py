"""Tokenised rows -> a `Batch`: the padding policies, positions and attention of rows of unequal length.

`eos`         pad with end-of-text tokens that are seen, noised and learned, to the longest row of the whole update
              (LLaDA's fine-tuning; to the longest of a micro-batch would change the gradient with its size)
`none`        padding is invisible and not learned
`block`       end-of-text tokens up to the edge of a block are learned, the rest is invisible
`max_length`  end-of-text tokens up to `max_length` are learned

It knows neither time nor masks: the objective noises the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from unmask.types import AttentionSpec, Batch, SampleKeys

Padding = Literal["eos", "none", "block", "max_length"]
# tokens; on average half of it is padding
_PADDED_TO = 32


@dataclass(frozen=True)
class Visit:
    """One sample on its way through the run.

    Attributes:
        number: place in the run's visiting order. row: of the dataset. epoch: how often the dataset was seen before.
        length: tokens to use of the row; the rest is cut off.
        padded: learned padding reaches up to here (policy `eos`).
        counted: False fills up a rank's last batch: nothing of it is noised or counted.
    """

    number: int
    row: int
    epoch: int
    length: int
    padded: int
    counted: bool = True


@dataclass(frozen=True)
class Collator:
    """Make a `Batch` of visited rows.

    Attributes:
        eos_token_id: the padding that is learned. pad_token_id: the padding that is not.
        padding: the policy. block_size: for `block`. max_length: for `max_length`.
        packing: lay the rows end to end in one, each a document of its own; learned padding then depends on the row
            alone, and there is no other.
    """

    eos_token_id: int
    pad_token_id: int
    padding: Padding = "eos"
    block_size: int = 32
    max_length: int = 1024
    packing: bool = False

    def __call__(self, rows: Sequence[tuple[Visit, Mapping[str, Any]]]) -> Batch:
        """Collate; each record has `input_ids`, and `may_noise` or `document` (all noisable, several documents)."""
        learned = [self._learned_length(visit) for visit, _ in rows]
        width = max(learned)
        x0_BL = torch.full((len(rows), width), self.pad_token_id, dtype=torch.int64)
        may_noise_BL = torch.zeros((len(rows), width), dtype=torch.bool)
        document_BL = torch.full((len(rows), width), -1, dtype=torch.int64)
        for index, ((visit, record), end) in enumerate(zip(rows, learned, strict=True)):
            length = visit.length
            x0_BL[index, :length] = _tensor(record["input_ids"], length)
            x0_BL[index, length:end] = self.eos_token_id
            may_noise_BL[index, :length] = _tensor(record["may_noise"], length) if "may_noise" in record else True
            may_noise_BL[index, length:end] = True
            document_BL[index, :end] = 0
            if "document" in record:
                document_BL[index, :length] = _tensor(record["document"], length)
            if not visit.counted:
                may_noise_BL[index] = False
        sample_BL = torch.arange(len(rows))[:, None].where(document_BL >= 0, -1)
        if self.packing:
            x0_BL, may_noise_BL, sample_BL = (_end_to_end(x, document_BL) for x in (x0_BL, may_noise_BL, sample_BL))
            document_BL = sample_BL
        attention, positions_BL = _layout(document_BL)
        return Batch(x0_BL, may_noise_BL, sample_BL, _keys(rows), attention, positions_BL)

    def _learned_length(self, visit: Visit) -> int:
        """Tokens of a row up to the end of its learned padding."""
        if self.padding == "eos":
            return padded_alone(visit.length) if self.packing else max(visit.padded, visit.length)
        if self.padding == "block":
            return -(-visit.length // self.block_size) * self.block_size
        return self.max_length if self.padding == "max_length" else visit.length


def padded_alone(length: int) -> int:
    """Where the learned padding of a row ends if no other row may have a say: packed, in evaluation and in streams."""
    return -(-length // _PADDED_TO) * _PADDED_TO


def _end_to_end(values_BL: Tensor, document_BL: Tensor) -> Tensor:
    return values_BL[document_BL >= 0].unsqueeze(0)


def _tensor(values: Any, length: int) -> Tensor:
    return torch.as_tensor(values[:length])


def _keys(rows: Sequence[tuple[Visit, Mapping[str, Any]]]) -> SampleKeys:
    visits = [visit for visit, _ in rows]
    return SampleKeys(
        visit_S=torch.tensor([visit.number for visit in visits]),
        row_S=torch.tensor([visit.row for visit in visits]),
        epoch_S=torch.tensor([visit.epoch for visit in visits]),
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
