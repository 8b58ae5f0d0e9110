"""A thin `transformers.Trainer`: the library's loop, with our sums, our order, our evaluation and our files.

What it replaces, and why: the loss is one division of a global sum by a global count; loaders follow the run's plan;
evaluation sums over fixed noise; checkpoints hold no pickle. Everything else (optimizers, schedules, mixed precision,
distributed wrapping, callbacks, trackers) stays the library's.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from unmask.errors import ModelError
from unmask.models.adapters import has_adapter
from unmask.models.shell import DiffusionModel
from unmask.objectives.bound_error import bound_error
from unmask.training import checkpointing, engine, safekeeping, sharded, zero
from unmask.training.engine import Engine
from unmask.training.guard import IN_A_ROW, Skips, ask
from unmask.training.loading import NoisedBatch
from unmask.training.meter import Meter
from unmask.training.peak import Peak
from unmask.training.saving import Saver, agreed, gathered, size_of
from unmask.training.signals import Signals
from unmask.training.tally import Tally, exact
from unmask.training.work import cost_of


@dataclass(frozen=True)
class RunParts:
    """What a run consists of, beside transformers' arguments.

    Attributes:
        objective: sums and counts. eval_objective: the same with noise that never changes.
        train_loader, eval_loader: make a loader over the whole run, or over the evaluation rows.
        save_weights: write model or adapter, tokenizer and card into a folder, given gathered tensors.
        load_weights: fill the model from such a folder. read_weights: what is in one, our name -> tensor.
        tell: says a line to the user. leave_replay: makes an update repeatable; a sentence about it.
        peak: what the device could do.
    """

    objective: Any
    eval_objective: Any
    train_loader: Callable[[], Any]
    eval_loader: Callable[[], Any] | None
    save_weights: Callable[[Path, dict[str, Any] | None], None]
    load_weights: Callable[[Path], None]
    read_weights: Callable[[Path], dict[str, Any]]
    tell: Callable[[str], None] = print
    leave_replay: Callable[[int], str] = lambda update: ""
    asked: Engine = Engine()
    peak: Peak = Peak(None, "")


class DiffusionTrainer(Trainer):
    """Train a `DiffusionModel` on an objective that returns sums."""

    # the loss below is final: the library must not divide it again by the number of micro-batches
    loss_is_scaled_for_ga = True
    # set by the library before any method here runs, to whatever the launcher asked for
    model: Any
    model_wrapped: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, model: DiffusionModel, args: TrainingArguments, parts: RunParts, callbacks: list[Any]) -> None:
        args._n_gpu = min(args.n_gpu, 1)  # one process uses one GPU
        self.parts = parts
        self.tally = Tally()
        self.meter = Meter(args.device, cost_of(model), parts.peak)
        self.saver, self.signals, self.skips = Saver(parts.tell, args.device), Signals(), Skips()
        self.stopped_by: signal.Signals | None = None
        # the rows come from `parts`; the library only wants to see that there are some
        placeholder: Any = [None]
        super().__init__(
            model=model,
            args=args,
            train_dataset=placeholder,
            eval_dataset=placeholder if parts.eval_loader else None,
            callbacks=[self.meter, *callbacks],
        )
        self.model_accepts_loss_kwargs = True  # the same promise as above, for older versions

    # --- processes

    def create_accelerator_and_postprocess(self) -> None:
        """The first moment at which it is known how the run is divided; nothing is written yet."""
        super().create_accelerator_and_postprocess()
        engine.check(self.parts.asked, self.args, self.accelerator)
        self.parts.tell(self.parts.asked.described(self.args.device.type, str(self.args.mixed_precision)))

    def create_optimizer(self, *args: Any) -> Any:
        optimizer = super().create_optimizer(*args)
        names = {id(weight): name for name, weight in self.model.named_parameters()}
        self.groups = [[names[id(weight)] for weight in group["params"]] for group in self.optimizer.param_groups]
        return optimizer

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Weights are read before they are divided, the optimizer's state after."""
        asked, resume = self.parts.asked, resume_from_checkpoint
        if asked.is_divided and resume is not None:
            self._load_from_checkpoint(resume)
        if asked.sharing == "fsdp" and (said := engine.leave_whole(self.accelerator.state.fsdp_plugin, self.model)):
            self.parts.tell(said)
        trained = self.model.named_parameters() if asked.is_deepspeed else ()
        masters = {name: weight.data for name, weight in trained if weight.requires_grad}
        own = None if asked.is_divided else resume
        prepared = super()._prepare_for_training(max_steps, train_dataloader, own)
        engine.check_wrapped(asked, self.model_wrapped)
        if asked.is_deepspeed:
            zero.set_masters(self.model, masters)
        if asked.is_divided:
            self._load_optimizer_and_scheduler(resume)
        return prepared

    # --- data

    def get_train_dataloader(self) -> Any:
        return self.parts.train_loader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        del eval_dataset
        assert self.parts.eval_loader is not None
        return self.parts.eval_loader()

    def num_examples(self, dataloader: Any) -> int:
        return len(dataloader) * self.args.per_device_train_batch_size * self.args.world_size

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The forwards of one update and the denominator of its loss, summed over all ranks."""
        self.meter.clock.enter("data")
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        count = torch.full((), sum(batch.count for batch in batches), dtype=torch.float32, device=device)
        if dist.is_initialized():
            dist.all_reduce(count)
        return batches, count.clamp(min=1.0)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs.to(self.args.device)

    # --- one forward

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward; then the clock goes on with what the library does next."""
        loss = super().training_step(*args, **kwargs)
        self.meter.clock.enter("optimizer" if self.accelerator.sync_gradients else "data")
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This rank's share of the update's mean loss; the wrappers average over ranks, hence the factor."""
        del return_outputs
        self.meter.clock.enter("forward")
        sums = self.parts.objective(model, inputs.batch, inputs.noise)
        own = (sums.loss.detach() / num_items_in_batch, torch.zeros_like(num_items_in_batch))
        self.tally.add({**sums.metrics, "loss": own})
        self.meter.count(inputs.tokens, inputs.work)
        self.meter.clock.enter("backward")
        return sums.loss * (self.args.world_size / num_items_in_batch)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called once per update, before the optimizer moves: the norm, and what the guard has to say.

        Raises:
            ModelError: too many updates in a row were no numbers.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        loss, updates = self.tally.pending["loss"]
        updates += float(self.is_world_process_zero())
        answer = ask(loss, norm, is_called=self.signals.received is not None)
        self.tally.end_update(kept=answer.is_finite)
        self.skips.note(skipped=not answer.is_finite)
        if not answer.is_finite:
            self._leave_out(model)
        if answer.is_called:
            self.stopped_by = self.signals.received or signal.SIGTERM
            self.control.should_save = self.control.should_training_stop = True
        return norm

    def _leave_out(self, model: nn.Module) -> None:
        """Let the optimizer find nothing to do; after several times in a row, end the run."""
        if self.accelerator.scaler is not None:
            return  # float16 finds its scale by such updates, and skips them itself
        model.zero_grad(set_to_none=True)
        number = self.state.global_step + 1
        if self.skips.in_a_row < IN_A_ROW and not self.is_deepspeed_enabled:
            self.parts.tell(f"warning: update {number:,} is left out: its loss or a gradient is not a number")
            return
        raise ModelError(
            f"the loss or a gradient is not a number at update {number:,}, as in the {IN_A_ROW - 1} before it: the "
            f"learning rate ({self.args.learning_rate:g}) is too high, or the weights that the run began with are "
            f"damaged. None of these updates changed the weights; earlier checkpoints are kept. "
            f"{self.parts.leave_replay(number)}"
        )

    def floating_point_ops(self, inputs: NoisedBatch) -> int:
        """By the shapes of network and batch: see `work.py`."""
        return int(self.meter.cost.of(inputs.work))

    # --- reports

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # the library's own loss keeps what is no number, and does not survive a resume
            logs = {name: value for name, value in logs.items() if name != "loss"}
            if not math.isfinite(logs.get("grad_norm", 0.0)):
                del logs["grad_norm"]
            skipped = {"skipped_updates": float(self.skips.total)} if self.skips.total else {}
            logs = {**logs, **self.tally.report(self.args.device), **self.meter.report(), **skipped}
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Means over the whole evaluation set, under noise that is the same every time."""
        del description, prediction_loss_only, ignore_keys
        total: dict[str, Tensor] = {}
        scored: list[Tensor] = []
        started, samples = time.perf_counter(), 0
        self.model_wrapped.eval()
        with torch.no_grad():
            for item in dataloader:
                self._evaluate_forward(self._prepare_inputs(item), total, scored)
                samples += item.batch.x0_BL.shape[0]
        self.model_wrapped.train()
        means = self._mean_over_ranks(total)
        if scored:
            means |= self._error_over_ranks(scored)
        means = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        # the time of evaluating is not the training's
        self.meter.clock.pause(time.perf_counter() - started)
        return EvalLoopOutput(None, None, means, num_samples=samples * self.args.world_size)  # type: ignore[arg-type]

    def _evaluate_forward(self, item: NoisedBatch, total: dict[str, Tensor], scored: list[Tensor]) -> None:
        sums = self.parts.eval_objective(self.model_wrapped, item.batch, item.noise)
        if sums.evidence_SE is not None:
            row_S1 = item.batch.keys.row_S[:, None].double().cpu()
            scored.append(torch.cat([row_S1, sums.evidence_SE.double().cpu()], dim=1))
        for name, (value, count) in {**sums.metrics, "loss": (sums.loss, torch.tensor(item.count))}.items():
            pair = torch.stack([value.detach().double().cpu(), count.double().cpu()])
            total[name] = total.get(name, torch.zeros(2, dtype=torch.float64)) + pair

    def _mean_over_ranks(self, total: dict[str, Tensor]) -> dict[str, float]:
        names = sorted(total)
        pairs = torch.stack([total[name] for name in names]).to(exact(self.args.device))
        if dist.is_initialized():
            dist.all_reduce(pairs)
        return {name: float(pairs[i, 0] / pairs[i, 1].clamp(min=1)) for i, name in enumerate(names)}

    def _error_over_ranks(self, scored: list[Tensor]) -> dict[str, float]:
        """The standard error of the bound that evaluation's noise leaves, from every rank's samples."""
        own_SE = torch.cat(scored).to(exact(self.args.device))
        every = [own_SE]
        if dist.is_initialized():
            # packed rows hold different numbers of samples; one without tokens is not counted
            longest = torch.tensor(len(own_SE), device=own_SE.device)
            dist.all_reduce(longest, dist.ReduceOp.MAX)
            own_SE = nn.functional.pad(own_SE, (0, 0, 0, int(longest) - len(own_SE)))
            every = [torch.empty_like(own_SE) for _ in range(dist.get_world_size())]
            dist.all_gather(every, own_SE)
        scored_SE = torch.cat(every).cpu()
        error = bound_error(scored_SE[:, 0].long(), scored_SE[:, 1:])
        return {} if math.isnan(error) else {"nll_stderr": error}

    # --- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        del trial
        output_dir = Path(str(self.args.output_dir))
        target = output_dir / f"checkpoint-{self.state.global_step}"
        best = output_dir / f"checkpoint-{self.state.best_global_step}"
        # evaluations may be more frequent than checkpoints: the best one that was kept counts
        if self.state.best_global_step and (best == target or best.is_dir()):
            self.state.best_model_checkpoint = str(best)
        self.store_flos()
        weights, optimizer = self.gathered_weights(), self._gathered_optimizer(model)
        states = gathered(checkpointing.random_states())
        reports = gathered({"sums": self.tally.state(), "skipped": self.skips.total * self.is_world_process_zero()})

        def write(folder: Path) -> None:
            self.parts.save_weights(folder, weights)
            if not self.args.save_only_model:
                checkpointing.save_optimizer(optimizer, folder)
                checkpointing.save_scheduler(self.lr_scheduler.state_dict(), folder)
                checkpointing.save_random_states(states, folder)
                checkpointing.save_reports(reports, folder)
            self.state.save_to_json(str(folder / safekeeping.STATE))

        def save() -> None:
            safekeeping.check_room(output_dir, size_of(optimizer) + self._weight_bytes(weights))
            safekeeping.write_whole(target, write)
            if kept := safekeeping.rotate(output_dir, self.args.save_total_limit, self.state.best_model_checkpoint):
                self.parts.tell(kept)

        self.saver.attempt(save if self.args.should_save else None, target.name)

    def _weight_bytes(self, weights: dict[str, Any] | None) -> int:
        """What the weights take on the disk: all of them, or an adapter's."""
        if weights is None:
            kept = {n: w for n, w in self.model.named_parameters() if w.requires_grad or not has_adapter(self.model)}
            return size_of(kept)
        return size_of(weights)

    def gathered_weights(self) -> dict[str, Any] | None:
        """All weights on the CPU where they are sharded or wrapped; None where the model holds them itself."""
        if not self.parts.asked.is_divided:
            return None
        adapted = has_adapter(self.model)
        if self.parts.asked.is_deepspeed:
            return zero.gather_weights(self.model, only_trained=adapted)
        return sharded.gather_trained(self.model) if adapted else get_model_state_dict(self.model, options=_GATHERED)

    def _gathered_optimizer(self, model: nn.Module) -> dict[str, Any]:
        if self.args.save_only_model:
            return {}
        if self.parts.asked.is_deepspeed:
            return zero.gather_optimizer(self.model_wrapped, self.groups)
        return get_optimizer_state_dict(model, self._plain_optimizer(), options=_GATHERED)

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        """PyTorch's, under the wrappers of accelerate and DeepSpeed."""
        optimizer = self.optimizer
        while not isinstance(optimizer, torch.optim.Optimizer) or isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        del model
        self.parts.load_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """The folder may be elsewhere than when the best was saved, or its disk had no room for it."""
        best = Path(str(self.args.output_dir)) / Path(str(self.state.best_model_checkpoint)).name
        is_there = agreed(best.is_dir)
        self.state.best_model_checkpoint = str(best) if is_there else None
        if not is_there:
            self.parts.tell(f"warning: the best checkpoint, {best.name}, is gone; the last weights are the run's")
        elif self.parts.asked.is_deepspeed:
            zero.set_weights(self.model, self.parts.read_weights(best))
        elif self.parts.asked.is_divided:
            sharded.set_weights(self.model, self.parts.read_weights(best))
        else:
            self.parts.load_weights(best)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        state, optimizer = checkpointing.load_optimizer(folder), self._plain_optimizer()
        asked = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
        if self.parts.asked.is_deepspeed:
            zero.fill_optimizer(self.model_wrapped, state)
        else:
            # what is whole everywhere is not sent: with an optimizer that has no state, sending would fail
            options = _GATHERED if self.parts.asked.is_divided and state["state"] else StateDictOptions()
            set_optimizer_state_dict(self.model_wrapped, optimizer, optim_state_dict=state, options=options)
        checkpointing.resume_schedule(self.lr_scheduler, optimizer, asked, checkpointing.load_scheduler(folder))
        for state in checkpointing.load_reports(folder, self.args.process_index, self.args.world_size):
            self.tally.restore(state["sums"], self.args.device)
            self.skips.total += state["skipped"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpointing.load_random_states(Path(checkpoint), self.args.process_index)


_GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
