"""Diffusion against autoregressive where data are few: one network, one text, two objectives, epoch after epoch.

Both runs begin with the same weights, take the same rows, and are ordinary runs of the trainer, each lengthened from
one evaluation to the next. Evaluation asks both how likely the same held-out rows are; what comes of it is a line in a
file, and what has a line is not done again. How figures are compared and drawn is `study_page`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from datasets import Dataset
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from unmask.convert.adapt import adapt
from unmask.convert.options import AdaptArguments
from unmask.data.packing import ROW_FEATURES
from unmask.data.sources import load_records
from unmask.data.sources.reading import Reading
from unmask.data.spec import parse_dataset_args
from unmask.errors import ConfigError, DataError, ResourceError
from unmask.evaluation import report, study_page
from unmask.evaluation.likelihood import LikelihoodSettings, Passage, metrics_of, numbers, passages_of, score_passages
from unmask.evaluation.study_options import StudyArguments
from unmask.evaluation.study_page import OBJECTIVES, Row
from unmask.generation.player import finite
from unmask.lm.loading import load
from unmask.models.checkpoints import load_model, save_model
from unmask.models.rotary import rotary_frequencies
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES
from unmask.training import lock
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.callbacks import reports, write_beside
from unmask.training.recipe import differences
from unmask.training.run import train
from unmask.training.safekeeping import STATE

VERSION = 1
START, POINTS, FIGURE = "start", "points.jsonl", "curves.svg"
STUDY = f"{START}/study.json"
_SHARPNESS = 4.0  # of the attention to neighbours: those of the one meant get a seventh of its weight
_BOS, _EOS, _MASK = "<|startoftext|>", "<|endoftext|>", "<|mask|>"
# more of these is no other study
_MAY_GROW = (
    "output_dir",
    "unique_tokens",
    "num_train_epochs",
    "points_per_doubling",
    "stop_rising",
    "save_steps",
    "json",
)
Texts = tuple[list[str], list[str]]  # to train on, held out


def run_study(chosen: StudyArguments, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Train, evaluate and draw whatever is not there yet; the results, as they stand in results.json.

    Raises:
        ConfigError: the folder holds another study. DataError: there is not enough text.
        ResourceError: the folder cannot be written, or another study is going on in it.
        KeyboardInterrupt: a signal has stopped a run; the same call goes on from there.
    """
    folder, texts = Path(str(chosen.output_dir)).expanduser(), _texts(chosen)
    try:
        with _held(folder):
            study = _begun(chosen, folder, texts)
            # a line that a kill has cut off would spoil the next one
            write_beside(folder / POINTS, "".join(map(_line, study.points)))
            for place in product(chosen.unique_tokens, chosen.epochs(), OBJECTIVES):
                if study.is_due(*place):
                    tell(study.advance(*place))
                    study.write()
            return study.write()
    except OSError as error:
        raise ResourceError(f"cannot write {folder}: {error.strerror or error}. Choose another one.") from None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other studies out of a folder; one that this call makes and puts nothing into is removed again."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock.hold(folder)
    try:
        yield
    finally:
        if is_new and all(place.name == lock.LOCK for place in folder.iterdir()):
            shutil.rmtree(folder)
        lock.let_go()


@dataclass(frozen=True)
class Study:
    """A study that has begun.

    Attributes:
        rows: ids of the rows to train on, of which each size takes the first. held_out: rows to evaluate on.
        points: what was found so far.
    """

    chosen: StudyArguments
    folder: Path
    rows: list[list[int]]
    held_out: list[Passage]
    points: list[Row]

    def is_due(self, unique: int, epoch: int, objective: str) -> bool:
        """Whether an evaluation is still to be made; what a run has left behind it cannot be made up for."""
        own = [row for row in self.points if (row["unique_tokens"], row["objective"]) == (unique, objective)]
        is_over = objective == "autoregressive" and study_page.has_risen(own, self.chosen.stop_rising)
        return not is_over and all(row["epochs"] < epoch for row in own)

    def advance(self, unique: int, epoch: int, objective: str) -> str:
        """Train to an epoch, evaluate there, keep the point; what to tell of it."""
        folder, updates = self.folder / f"{unique}-{objective}", epoch * self.chosen.updates_per_epoch(unique)
        done = train(self._settings(folder, unique, objective, updates), verb="pretrain", console=Console(quiet=True))
        lock.hold(self.folder)  # a run that ends lets go of all folders
        if done.stopped:
            raise KeyboardInterrupt(done.stopped)
        state = json.loads((folder / f"checkpoint-{updates}" / STATE).read_text("utf-8"))
        settings = LikelihoodSettings(self.chosen.samples, self.chosen.seed)
        cases = score_passages(load(done.folder), self.held_out, settings)
        figures = metrics_of(cases)
        row = {
            "unique_tokens": unique,
            "objective": objective,
            "epochs": epoch,
            "updates": updates,
            "flops": state["total_flos"],
            "nll": figures["nll"].mean,
            "stderr": figures["nll"].stderr,
            "bits_per_byte": figures["bits_per_byte"].mean,
            "training_nll": done.metrics.get("nll"),
            "seconds": round(done.seconds, 1),
            "nats": [round(nats, 4) for nats in numbers(case["nats"] for case in cases)],
            "tokens": sum(case["tokens"] for case in cases),
        }
        self.points.append(row)
        with (self.folder / POINTS).open("a", encoding="utf-8") as file:
            file.write(_line(row))
        error = "" if row["stderr"] is None else f" ± {row['stderr']:.4f}"
        return (
            f"{unique:,} tokens, {objective}, epoch {epoch:,}: {row['nll']:.4f}{error} nats per "
            f"held-out token after {row['flops']:.3g} FLOPs, {row['seconds']:.0f} s since the last point"
        )

    def write(self) -> dict[str, Any]:
        """The results of the sizes asked for, with what produced them, as the files of a report and a picture."""
        own = [row for row in self.points if row["unique_tokens"] in self.chosen.unique_tokens]
        sizes = [study_page.compared(own, unique) for unique in sorted({row["unique_tokens"] for row in own})]
        result = report.Result(
            task="data_constrained",
            version=VERSION,
            data=str(self.chosen.dataset_args),
            metrics=study_page.lowest(sizes),
            breakdown=study_page.by_epoch(own),
            model=None,
            settings=asdict(replace(self.chosen, output_dir="-")),
            seed=self.chosen.seed,
            seconds=round(sum(row["seconds"] for row in own), 1),
            notes=study_page.notes(sizes, self.chosen.stop_rising),
        )
        found = {**report.document(result), **finite({"sizes": sizes, "points": own})}
        report.write(self.folder, found)
        write_beside(self.folder / FIGURE, study_page.figure(sizes, own))
        return found

    def _settings(self, folder: Path, unique: int, objective: str, updates: int) -> Settings:
        same = ("per_device_train_batch_size", "learning_rate", "warmup_steps", "weight_decay", "adam_beta2")
        trainer = {
            **{name: getattr(self.chosen, name) for name in (*same, "seed", "save_steps")},
            "output_dir": str(folder),
            "max_steps": updates,
            "lr_scheduler_type": "constant_with_warmup",
            "logging_steps": 50,
            "save_strategy": "steps",
            "save_total_limit": 2,
            "report_to": "none",
        }
        model = ModelArguments(model_name_or_path=str(self.folder / START / objective))
        rows = str(self._saved_rows(unique))
        data = DataArguments(dataset_args=rows, max_length=self.chosen.max_length, load_preprocessed_data=True)
        learned = ObjectiveArguments(objective=cast(Any, objective), masking="exact_count")
        return Settings(model, data, learned, RunArguments(report=False), trainer)

    def _saved_rows(self, unique: int) -> Path:
        """The rows of a size, as the trainer takes tokens that are packed already."""
        folder = self.folder / f"{unique}-rows"
        if not (folder / "dataset_info.json").is_file():
            ids = self.rows[: self.chosen.rows(unique)]
            columns = {"input_ids": ids, "document": [[0] * len(row) for row in ids]}
            Dataset.from_dict(columns, features=ROW_FEATURES).save_to_disk(folder)
        return folder


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _texts(chosen: StudyArguments) -> Texts:
    trained: list[str] = []
    held_out: list[str] = []
    for spec in parse_dataset_args(str(chosen.dataset_args)):
        records: Any = load_records(spec, Reading("text", chosen.text_field))
        for texts, rows in ((trained, records.train), (held_out, records.test)):
            if rows is not None and "text" not in rows.column_names:
                raise DataError(f"{spec.path} holds tokens; a study makes its own. Give texts.")
            texts += rows["text"] if rows is not None else []
    if not held_out:
        raise ConfigError(
            f"dataset_args {chosen.dataset_args} holds nothing out. Example: stories.txt[test:100], with <|endoftext|> "
            "between its stories, or a folder with train.txt and test.txt."
        )
    return trained, held_out


def _begun(chosen: StudyArguments, folder: Path, texts: Texts) -> Study:
    """The study that `folder` holds, or a new one, whose first weights are there whole or not at all.

    Raises:
        ConfigError: the folder holds another study. DataError: there is not enough text.
    """
    settings = {name: value for name, value in asdict(chosen).items() if name not in _MAY_GROW}
    note = {**settings, "texts": hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]}
    if (folder / START).exists():
        _refuse_another(folder, note)
        return Study(chosen, folder, *_rows(chosen, folder / START, texts), reports(folder / POINTS))
    with TemporaryDirectory(prefix=".start-", dir=folder) as scratch:
        made = Path(scratch) / START
        _write_first_weights(chosen, made, texts[0])
        rows = _rows(chosen, made, texts)
        (Path(scratch) / STUDY).write_text(json.dumps(note, indent=2), "utf-8")
        os.replace(made, folder / START)
    return Study(chosen, folder, *rows, [])


def _refuse_another(folder: Path, note: dict[str, Any]) -> None:
    if not (folder / STUDY).is_file():
        raise ConfigError(f"{folder / START} is not of a study. Use another output_dir.")
    changed = differences(json.loads((folder / STUDY).read_text("utf-8")), note)
    if changed:
        said = ", ".join(f"{name} {values}" for name, values in changed.items())
        raise ConfigError(f"{folder} holds another study ({said}). Use another output_dir.")


def _rows(chosen: StudyArguments, start: Path, texts: Texts) -> tuple[list[list[int]], list[Passage]]:
    """Rows to train on, as many as the largest size takes, and rows to evaluate on."""
    lm = load(start / "masked", device="cpu")
    trained, held_out = (passages_of(lm, ["\n\n".join(some)], chosen.max_length) for some in texts)
    rows = [passage.prompt + passage.target for passage in trained if len(passage.target) == chosen.max_length - 1]
    needed = max(map(chosen.rows, chosen.unique_tokens))
    if len(rows) < needed:
        raise DataError(
            f"unique_tokens asks for {needed:,} rows of max_length {chosen.max_length}; {chosen.dataset_args} has "
            f"{len(rows):,} beside what is held out. Give more text, or lower unique_tokens."
        )
    return rows[:needed], held_out


def _write_first_weights(chosen: StudyArguments, folder: Path, texts: Sequence[str]) -> None:
    """A tokenizer, a Qwen2 with drawn weights, and the same weights with open attention."""
    first = folder / "autoregressive"
    tokens = _write_tokenizer(texts, chosen.vocab_size, first)
    config = {
        **FAMILIES.get("qwen2").tiny_config,
        **{name: getattr(chosen, name) for name in ("hidden_size", "intermediate_size", "num_hidden_layers")},
        "num_attention_heads": chosen.num_attention_heads,
        "num_key_value_heads": chosen.num_attention_heads,
        "max_position_embeddings": chosen.max_length,
        "vocab_size": len(tokens),
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.eos_token_id,
    }
    (first / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = load_model(first, from_scratch=True, seed=chosen.seed)
    _look_at_neighbours(model)
    save_model(model, first)
    adapt(first, folder / "masked", AdaptArguments())


def _write_tokenizer(texts: Sequence[str], size: int, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[_BOS, _EOS, _MASK], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    dressed = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_BOS, eos_token=_EOS, mask_token=_MASK, pad_token=_EOS
    )
    dressed.save_pretrained(folder)
    return dressed


@torch.no_grad()
def _look_at_neighbours(model: DiffusionModel) -> None:
    """Let the heads of the first layer begin at the token before, the one behind, two before, ...

    A masked position knows nothing of its own, and with even attention next to nothing of its neighbours: a small
    network would spend thousands of updates where it counts tokens. Mimetic first weights (arXiv 2305.09828), by the
    biases of queries and keys: a query turned by an offset fits keys that far away.
    """
    shape, attention = model.facts.shape, model.trunk.layers[0].attention
    angles_K = rotary_frequencies(shape.head_width, 10_000.0, None, torch.device("cpu"))
    offsets_H = torch.tensor([(-1) ** (head + 1) * (head // 2 + 1) for head in range(shape.heads)])
    turned_HK = offsets_H[:, None] * angles_K
    query_HK = torch.cat([turned_HK.cos(), turned_HK.sin()], dim=1)
    key_HK = torch.cat([torch.ones_like(turned_HK), torch.zeros_like(turned_HK)], dim=1)
    for linear, bias_HK in ((attention.q_proj, query_HK), (attention.k_proj, key_HK)):
        linear.bias.copy_(_SHARPNESS * bias_HK.flatten())
