"""A linear layer that computes float32 on a processor with oneDNN, where nothing has to be learned.

PyTorch gives float32 products to MKL, which is at half speed or less on processors other than Intel's; oneDNN, which
it has on board for bfloat16, is as fast everywhere. In training, and for all but float32 on a CPU, this is `nn.Linear`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """`nn.Linear`; the same result up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """`input @ weight.T + bias`."""
        if _is_for_onednn(input, self.weight):
            return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], None)
        return F.linear(input, self.weight, self.bias)


# oneDNN is part of PyTorch on most processors; it can be left out of a build
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _HAS_ONEDNN
        and not torch.is_grad_enabled()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        # a tensor of another class (sharded, quantised) has products of its own
        and type(weight) in (Tensor, nn.Parameter)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )
