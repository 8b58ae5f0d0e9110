"""LoRA on what PEFT has no layer for: the experts of a sparse model, each with matrices of its own, and routers.

The adapters of all experts are stacked as their weights are, and computed by the same products. Knows no file and no
name; imported where an adapter is put in, since it imports PEFT.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.tuners.lora import LoraConfig, LoraLayer
from torch import Tensor, nn
from torch.func import functional_call

from unmask.models.moe import ExpertProjection, Router


class ExpertLora(nn.Module, LoraLayer):
    """A LoRA per expert: `lora_A` `[E, r, inputs]` and `lora_B` `[E, outputs, r]` beside `[E, outputs, inputs]`."""

    def __init__(
        self,
        base_layer: ExpertProjection,
        adapter_name: str,
        config: LoraConfig,
        *,
        r: int,
        lora_alpha: int,
        **_: Any,
    ) -> None:
        super().__init__()
        LoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha, config)

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        weight: Any = module.weight
        return weight.shape[2], weight.shape[1]

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **_: Any) -> None:
        """Add an adapter that changes nothing yet. PEFT's own first weights, expert by expert."""
        self.r[adapter_name], self.lora_alpha[adapter_name] = r, lora_alpha
        self.scaling[adapter_name] = lora_alpha / (math.sqrt(r) if config.use_rslora else r)
        self.use_rslora[adapter_name], self.use_dora[adapter_name] = config.use_rslora, False
        self.lora_dropout[adapter_name] = nn.Dropout(config.lora_dropout) if config.lora_dropout else nn.Identity()
        weight: Any = self.base_layer.weight
        experts, outputs, inputs = weight.shape
        inward, outward = ExpertProjection(experts, inputs, r), ExpertProjection(experts, r, outputs)
        nn.init.uniform_(inward.weight, -(inputs**-0.5), inputs**-0.5)
        nn.init.zeros_(outward.weight)
        self.lora_A[adapter_name], self.lora_B[adapter_name] = inward, outward
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x_mI: Tensor, ends_E: Tensor) -> Tensor:
        """As `ExpertProjection`."""
        y_mO = self.base_layer(x_mI, ends_E)
        for name in [] if self.disable_adapters else self.active_adapters:
            inward: Any = self.lora_A[name]
            narrow_mR = inward(self.lora_dropout[name](x_mI).to(inward.weight.dtype), ends_E)
            y_mO = y_mO + (self.lora_B[name](narrow_mR, ends_E) * self.scaling[name]).to(y_mO.dtype)
        return y_mO


class RouterLora(nn.Module, LoraLayer):
    """LoRA on the weight of a router, which uses it in a way of its own; dropout has no place there."""

    def __init__(
        self, base_layer: Router, adapter_name: str, config: LoraConfig, *, r: int, lora_alpha: int, **_: Any
    ) -> None:
        super().__init__()
        LoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha, config)

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        weight: Any = module.weight
        return weight.shape[1], weight.shape[0]

    def forward(self, x_nD: Tensor) -> tuple[Tensor, Tensor]:
        """As `Router`."""
        router: Any = self.base_layer
        weight = router.weight.float()
        with torch.autocast(x_nD.device.type, enabled=False):
            for name in [] if self.disable_adapters else self.active_adapters:
                weight = weight + added(self, name)
        return functional_call(router, {"weight": weight}, (x_nD,))


def added(layer: Any, adapter_name: str, place: int | None = None) -> Tensor:
    """What an adapter adds to a weight `[outputs, inputs]`, or to that of one expert of a stack, in float32."""
    inward, outward = layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight
    if place is not None:
        inward, outward = inward[place], outward[place]
    return layer.scaling[adapter_name] * (outward.float() @ inward.float())


LAYERS: dict[type[nn.Module], type[nn.Module]] = {ExpertProjection: ExpertLora, Router: RouterLora}
