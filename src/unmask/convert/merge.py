"""An adapter folded into its base: a checkpoint like any other, that needs PEFT no more.

What an adapter does to a weight is computed by PEFT, in float32. The base is read tensor by tensor, so that no more is
held than one file of the result.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmask.convert.aside import built_aside, free_folder
from unmask.errors import ModelError
from unmask.models.adapters import base_held_in, base_of, is_adapter, load_adapter, tokenizer_folder
from unmask.models.card import Card, write_card
from unmask.models.checkpoints import Dtype, dtype_of, fill_from_files, official_tensors, save_model, tensor_reader
from unmask.models.facts import read_facts
from unmask.models.folders import resolve_folder
from unmask.models.names import split_place, to_our_name
from unmask.models.quantized import Quantization, as_held, import_bitsandbytes
from unmask.models.shell import DiffusionModel
from unmask.models.streamed import Streamed
from unmask.models.tokenizers import load_tokenizer

_ADAPTER = "default"  # what PEFT calls the only one


@dataclass(frozen=True)
class Merged:
    """What became of a base and an adapter.

    Attributes:
        folder: the new checkpoint. base, adapter: as they were found.
        changed: weights that the adapter changed. tensors: all weights. dtype: their type.
        held_in: what the base's matrices were rounded to first, as while the adapter was trained; None: nothing.
    """

    folder: str
    base: str
    adapter: str
    changed: int
    tensors: int
    dtype: str
    held_in: Quantization | None = None


def merge_adapter(
    adapter: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    dtype: Dtype = "auto",
    base_as_stored: bool = False,
) -> Merged:
    """Fold a LoRA, rsLoRA or DoRA adapter into its base, on the CPU.

    What was trained on a base held in 4 or 8 bits is folded into what these bits say: then the result computes what was
    trained. Full weights differ from that by the rounding that the adapter has learned to live with.

    Args:
        adapter: folder or Hub id of the adapter; the folder of a finished run is one.
        target: folder of the new checkpoint; must be absent or empty.
        base: folder or Hub id; None: the one that the adapter names.
        dtype: type of the weights written; auto: each as in the base.
        base_as_stored: fold into the base's full weights in any case.

    Raises:
        ConfigError: `target` is not empty, or `dtype` is unknown.
        ModelError: the adapter is none, its base is unknown or another one, or cannot take it.
        ResourceError: the disk is full, the folder cannot be written, or bitsandbytes is needed and not installed.
    """
    wanted = dtype_of(dtype)
    folder = free_folder(target)
    source = resolve_folder(adapter, holds="an adapter_config.json")
    if not is_adapter(source):
        raise ModelError(f"{source} is no adapter: it holds no adapter_config.json. Give the folder of a LoRA run.")
    base = os.fspath(base or _base_named_by(source))
    origin = resolve_folder(base)
    model = _without_values(base, origin)
    empty = {name: tensor.to(dtype=wanted) for name, tensor in official_tensors(model).items()}
    load_adapter(model, source)
    _refuse_half_of_a_tie(model, source)
    held = None if base_as_stored else base_held_in(source)
    if held:
        import_bitsandbytes()
    folded = _Folded(model, origin, held)
    tensors = Streamed(empty, folded)
    card = _card(folder.name, model.family.name, base, os.fspath(adapter))
    with built_aside(folder) as aside:
        save_model(model, aside, tensors=tensors)
        _write_the_rest(aside, model, source, origin)
        write_card(aside, replace(card, block_size=model.facts.block_size))
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    return Merged(
        str(folder), base, str(source), len(folded.changed), len(tensors), ", ".join(types), held[0] if held else None
    )


def _without_values(base: str, origin: Path) -> DiffusionModel:
    with torch.device("meta"):
        model = DiffusionModel(read_facts(origin))
    model.config._name_or_path = base
    # sees that the files fit
    fill_from_files(model, origin, device=torch.device("meta"))
    return model


def _card(name: str, family: str, base: str, adapter: str) -> Card:
    command = f"unmask merge --lora_path {adapter} --base_model_path {base} --merge_path {name}"
    return Card(
        title=name,
        summary=f"`{base}` with the adapter `{adapter}` folded in by `unmask merge`.",
        family=family,
        base=base,
        sections=(("Command", f"```bash\n{command}\n```"),),
    )


def _write_the_rest(folder: Path, model: DiffusionModel, source: Path, origin: Path) -> None:
    """The tokenizer, the adapter's where it has one of its own, and how the base is generated with."""
    load_tokenizer(tokenizer_folder(origin, source), model.facts).save_pretrained(folder)
    generation = origin / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / generation.name)


class _Folded:
    """Makes a weight of the result, by its official name; remembers which ones the adapter changed."""

    def __init__(self, model: DiffusionModel, origin: Path, held: tuple[Quantization, torch.dtype] | None) -> None:
        self.model, self.read, self.held = model, tensor_reader(origin, model.family), held
        self.changed: set[str] = set()

    def __call__(self, name: str) -> Tensor:
        ours = to_our_name(self.model.family, name)
        assert ours is not None
        whole, place = split_place(ours)
        path, _, leaf = whole.rpartition(".")
        module, stored = self.model.get_submodule(path), self.read(ours)
        if self.held and leaf == "weight" and path != "head" and isinstance(_base_of(module), nn.Linear):
            stored = as_held(stored.to(self.held[1]), self.held[0])
        value = _fold(module, leaf, stored, place)
        if value is not stored:
            self.changed.add(name)
        return value


def _base_of(module: Any) -> nn.Module:
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _fold(module: nn.Module, leaf: str, stored: Tensor, place: int | None) -> Tensor:
    """A weight or bias of the base as the adapter leaves it; the same object where it leaves it alone.

    `place`: of an expert's weight in its stack.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    from unmask.models.expert_lora import ExpertLora, RouterLora, added

    layer: Any = module
    if isinstance(module, ModulesToSaveWrapper):
        return getattr(layer.modules_to_save[_ADAPTER], leaf)
    holder: Any = _base_of(layer) if isinstance(module, LoraLayer) else layer
    learned = getattr(holder, leaf)
    if not learned.is_meta:
        return learned  # a bias that was trained
    if leaf != "weight" or not isinstance(module, LoraLayer):
        return stored
    if isinstance(layer, ExpertLora | RouterLora):
        change = added(layer, _ADAPTER, place)
        return _finite(stored.float() + change) if change.any() else stored
    _put(holder, stored.to(torch.float32, copy=True))
    layer.float()
    layer.merge(adapter_names=[_ADAPTER])
    merged = _finite(holder.weight.detach())
    _put(holder, torch.empty_like(merged, device="meta"))
    return merged


def _finite(merged: Tensor) -> Tensor:
    if not torch.isfinite(merged).all():
        raise ModelError("the adapter holds values that are not finite. Train it again, or take an earlier checkpoint.")
    return merged


def _put(module: Any, weight: Tensor) -> None:
    module.weight = nn.Parameter(weight, requires_grad=False)


def _refuse_half_of_a_tie(model: DiffusionModel, source: Path) -> None:
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.facts.shape.tied and any(isinstance(end, LoraLayer | ModulesToSaveWrapper) for end in ends):
        raise ModelError(
            f"{source} adapts the embedding or the head, which are one weight in this base: they cannot be folded "
            "apart. Use the adapter as it is: --adapter."
        )


def _base_named_by(source: Path) -> str:
    base = base_of(source)
    if not base:
        raise ModelError(f"{source} names no base. Give it: --base_model_path FOLDER_OR_HUB_ID")
    try:
        resolve_folder(base, weights=False)
    except ModelError as error:
        raise ModelError(f"{source} names a base that is not there: {error} Or give it: --base_model_path") from None
    return base
