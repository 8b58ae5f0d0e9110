"""What two updates of a real run learn, under any combination of layout, compiling, recomputing and objective.

A script too, `updates.py JOBS.json MATERIAL RESULTS`: the same in two processes that train together. A job is a `Run`
as JSON; the first process writes what it learned into RESULTS, a file per job.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tests import tiny
from unmask.data.ends import Padding
from unmask.models import compiling, fused_nll
from unmask.models.checkpoints import load_model, save_model
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES
from unmask.training import run as conducted
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.grouped import GroupedOrder
from unmask.training.trainer import DiffusionTrainer
from unmask.types import DenoiserOutput

Learned = list[dict[str, Tensor]]
# longer than a tile of attention, so that packed rows and two streams are computed in pieces
MAX_LENGTH = 192
# so that the positions and the vocabulary of the head are cut too
_TILES = (2048, 32)
PADDING: dict[str, Padding] = {"masked": "none", "block": "block", "autoregressive": "none"}


@dataclass(frozen=True)
class Combination:
    """How a run computes, and what it minimises."""

    packed: bool
    compiled: bool
    recomputed: bool
    objective: str

    def __str__(self) -> str:
        switches = (("packed", "padded"), ("compiled", "eager"), ("recomputed", "kept"))
        named = zip(switches, (self.packed, self.compiled, self.recomputed), strict=True)
        return "-".join([*(yes if is_on else no for (yes, no), is_on in named), self.objective])

    def is_of(self, model: DiffusionModel) -> bool:
        """Whether this is how a model computes."""
        compiled = {isinstance(layer.ask, partial) for layer in model.trunk.layers}
        return compiled == {self.compiled} and bool(model.trunk.recompute) == self.recomputed


@dataclass(frozen=True)
class Run:
    """Two updates of 8 rows.

    Attributes:
        how: the combination. micro, accumulation: rows of a forward, forwards of an update in one process.
        backend: of torch.compile, where something is compiled.
        apart: packed documents keep plan, times and ends, but each is a row of its own.
        naive: logits at all positions, and PyTorch's cross-entropy.
    """

    how: Combination
    micro: int = 8
    accumulation: int = 1
    backend: str = "aot_eager"
    apart: bool = False
    naive: bool = False

    def settings(self, material: Path, output: Path) -> Settings:
        """Of the run, from what `write_material` wrote."""
        how, blocks = self.how, self.how.objective == "block"
        model = material / ("qwen2" if how.objective == "autoregressive" else "llada")
        rows = str(material / "conversations.jsonl")
        data = DataArguments(rows, max_length=MAX_LENGTH, packing=how.packed, padding=PADDING[how.objective])
        compiling = {"torch_compile": True, "torch_compile_backend": self.backend} if how.compiled else {}
        # plain gradient descent: adaptive optimizers turn a gradient of rounding errors into a full step
        descent = {"optim": "sgd", "learning_rate": 1e-3, "max_grad_norm": 1e9, "lr_scheduler_type": "constant"}
        trainer: dict[str, Any] = {
            **{"output_dir": str(output), "max_steps": 2, "logging_steps": 1, "save_strategy": "no", "seed": 3},
            **{"per_device_train_batch_size": self.micro, "gradient_accumulation_steps": self.accumulation},
            **{"gradient_checkpointing": how.recomputed, "use_cpu": True, "warmup_steps": 0, "report_to": "none"},
        }
        return Settings(
            ModelArguments(str(model)),
            replace(data, block_size=8 if blocks else data.block_size),
            # by samples, of which forwards have as many, or by tokens, of which they do not
            ObjectiveArguments(how.objective, loss_normalization="sequence" if blocks else "token"),  # type: ignore[arg-type]
            RunArguments(report=False),
            {**trainer, **descent, **compiling},
        )

    @contextmanager
    def small(self) -> Iterator[None]:
        """Heads in several tiles; graphs that a model of this kind has left behind; whatever else the run asks for."""
        kind = (self.how.objective == "autoregressive", self.backend)
        with ExitStack() as changed:
            changed.enter_context(patch.object(fused_nll, "TILE_CPU", _TILES))
            changed.enter_context(patch.object(compiling, "_own", partial(_part_of, kind, compiling._own)))
            # or it would go on without any graph
            changed.enter_context(torch._dynamo.config.patch(fail_on_recompile_limit_hit=True))
            if self.apart:
                changed.enter_context(_apart())
            if self.naive:
                changed.enter_context(_naive())
            yield

    def learned(self, material: Path, output: Path) -> Learned:
        """Of each update the loss, and the gradient of each weight, as the optimizer gets it."""
        found: Learned = []
        how = self.how

        class Recording(DiffusionTrainer):
            def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
                assert how.is_of(self.model)
                weights = self.model.named_parameters()
                found.append({name: weight.grad.detach().clone() for name, weight in weights})
                return super()._get_grad_norm(model, grad_norm)

        with self.small(), patch.object(conducted, "DiffusionTrainer", Recording):
            done = conducted.train(self.settings(material, output), verb="sft", console=Console(quiet=True))
        losses = [line["loss"] for line in done.history if "loss" in line]
        # of several processes the first alone reports
        return [{**update, "loss": torch.tensor(loss)} for update, loss in zip(found, losses, strict=False)]


def write_material(folder: Path) -> Path:
    """Two models, whose every weight shows in what they predict, and conversations of varied length."""
    tiny.write_conversations(folder / "conversations.jsonl", rows=60)
    size = {"vocab_size": 264, "eos_token_id": 1}
    of_llada = {"embedding_size": 264, "mask_token_id": 0, "pad_token_id": 1, "max_sequence_length": 256}
    chance = torch.Generator().manual_seed(1)
    for name, more in (("llada", of_llada), ("qwen2", {"max_position_embeddings": 256})):
        (folder / name).mkdir()
        tiny.write_tokenizer(folder / name)
        config = {**FAMILIES.get(name).tiny_config, **size, **more}
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        model = load_model(folder / name, from_scratch=True, seed=1)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=chance))
        save_model(model, folder / name)
    return folder


@cache
def _part_of(kind: Any, own: Callable[..., Any], part: Callable[..., Any]) -> Callable[..., Any]:
    """Compiling takes seconds, a run half of one: graphs go by their code, so the code of a layer's part stays."""
    del kind
    return own(part)


@contextmanager
def _apart() -> Iterator[None]:
    groups = GroupedOrder.groups

    def rows(plan: GroupedOrder, update: int) -> Any:
        return [[replace(visit, bin=None) for visit in row] for row in groups(plan, update)]

    with patch.object(GroupedOrder, "groups", rows):
        yield


@contextmanager
def _naive() -> Iterator[None]:
    forward = DiffusionModel.forward

    def everywhere(model: DiffusionModel, input_ids: Tensor, *, logits_at: Tensor, targets: Tensor, **asked: Any):
        logits_BLV = forward(model, input_ids, **asked).logits
        assert logits_BLV is not None and logits_BLV.shape[:2] == input_ids.shape
        wanted = torch.full((input_ids.numel(),), -100).index_copy(0, logits_at, targets)
        nll = F.cross_entropy(logits_BLV.flatten(0, 1), wanted, reduction="none")
        return DenoiserOutput(nll=nll[logits_at])

    with patch.object(DiffusionModel, "forward", everywhere):
        yield


def job(run: Run) -> dict[str, Any]:
    """A run as the script reads it."""
    return asdict(run)


def _together(rank: int, port: int, jobs: list[dict[str, Any]], material: Path, results: Path) -> None:
    """What one of two processes does."""
    several = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in several.items()}, MASTER_ADDR="localhost")
    torch.set_num_threads(1)
    for number, asked in enumerate(jobs):
        run = Run(**{**asked, "how": Combination(**asked["how"])})
        learned = run.learned(material, results / f"run-{number}")
        if rank == 0:
            told = {f"{update} {name}": value for update, one in enumerate(learned) for name, value in one.items()}
            save_file(told, results / f"{number}.safetensors")


def _main(jobs: list[dict[str, Any]], material: Path, results: Path) -> int:
    """Forks before torch has computed anything."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            _together(rank, port, jobs, material, results)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    sys.exit(_main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), Path(sys.argv[3])))
