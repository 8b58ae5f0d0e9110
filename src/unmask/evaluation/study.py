"""Diffusion against autoregressive where data are few: one network, one text, two objectives, epoch after epoch.

Both runs begin with the same weights, take the same rows, and are ordinary runs of the trainer, each lengthened from
one evaluation to the next. Evaluation asks both how likely the same held-out rows are; what comes of it is a line in a
file, and what has a line is not done again. How figures are drawn and compared is `study_page`'s.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from unmask.convert.adapt import adapt
from unmask.convert.options import AdaptArguments
from unmask.data.packing import ROW_FEATURES
from unmask.data.sources import open_dataset, read
from unmask.data.sources.reading import Reading
from unmask.data.spec import parse_dataset_args
from unmask.errors import ConfigError, DataError, ResourceError
from unmask.evaluation import report, study_page
from unmask.evaluation.likelihood import LikelihoodSettings, Passage, metrics_of, passages_of, score_passages
from unmask.evaluation.study_options import StudyArguments
from unmask.evaluation.study_page import OBJECTIVES, Row
from unmask.lm.loading import load
from unmask.models.checkpoints import load_model, save_model
from unmask.models.layers import rotary_frequencies
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES
from unmask.training import lock
from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
from unmask.training.callbacks import reports, write_beside
from unmask.training.recipe import differences
from unmask.training.run import train
from unmask.training.safekeeping import STATE

VERSION = 1
_SHARPNESS = 4.0  # of the attention to neighbours: those of the one meant get a seventh of its weight
STUDY, POINTS, FIGURE = "study.json", "points.jsonl", "curves.svg"
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


@dataclass(frozen=True)
class Material:
    """What the runs share.

    Attributes:
        starts: objective -> folder of its first weights. held_out: rows to evaluate on.
        rows: ids of the rows to train on, of which each size takes the first.
    """

    starts: dict[str, Path]
    held_out: list[Passage]
    rows: list[list[int]]


def run_study(chosen: StudyArguments, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Train, evaluate and draw whatever is not there yet; the results, as they stand in results.json.

    Raises:
        ConfigError: the folder holds another study. DataError: there is not enough text.
        ResourceError: the folder cannot be written, or another study is going on in it.
        KeyboardInterrupt: a signal has stopped a run; the same call goes on from there.
    """
    folder = Path(str(chosen.output_dir)).expanduser()
    try:
        texts, held_out = _texts(chosen)
        with _held(folder):
            return _carried_on(chosen, folder, _gather(chosen, folder, texts, held_out), tell)
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


def _carried_on(
    chosen: StudyArguments, folder: Path, material: Material, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Do what is not done yet, and write the results after each epoch."""
    points: list[Row] = reports(folder / POINTS)
    # a line that a kill has cut off would spoil the next one
    write_beside(folder / POINTS, "".join(json.dumps(row) + "\n" for row in points))
    found: dict[str, Any] = {}
    for unique in chosen.unique_tokens:
        for epoch in chosen.epochs():
            for objective in OBJECTIVES:
                _advance(chosen, folder, material, (unique, objective, epoch), points, tell)
            found = _document(chosen, points)
            _write(folder, found)
    return found


def _gather(chosen: StudyArguments, folder: Path, texts: Sequence[str], held_out: Sequence[str]) -> Material:
    """The material, and a note in the folder of whose it is; first weights that no such note vouches for are not used.

    Raises:
        ConfigError: the folder holds another study. DataError: there is not enough text.
    """
    is_new, start = not (folder / STUDY).is_file(), folder / "start"
    if is_new:
        _remove_starts(start)
    else:
        _refuse_another(chosen, folder)
    try:
        material = _material(chosen, start, texts, held_out)
        text = json.dumps([passage.target for passage in material.held_out])
        mine = _refuse_another(chosen, folder, hashlib.sha256(text.encode()).hexdigest()[:16])
        write_beside(folder / STUDY, json.dumps(mine, indent=2))
    except BaseException:
        if is_new:
            _remove_starts(start)
        raise
    return material


def _material(chosen: StudyArguments, start: Path, texts: Sequence[str], held_out: Sequence[str]) -> Material:
    starts = _starts(chosen, start, texts)
    lm = load(starts["masked"], device="cpu")
    passages = passages_of(lm, ["\n\n".join(texts)], chosen.max_length)
    rows = [passage.prompt + passage.target for passage in passages if len(passage.target) == chosen.max_length - 1]
    needed = max(map(chosen.updates_per_epoch, chosen.unique_tokens)) * chosen.per_device_train_batch_size
    if len(rows) < needed:
        raise DataError(
            f"unique_tokens asks for {needed:,} rows of max_length {chosen.max_length}; {chosen.dataset_args} has "
            f"{len(rows):,} beside what is held out. Give more text, or lower unique_tokens."
        )
    return Material(starts, passages_of(lm, ["\n\n".join(held_out)], chosen.max_length), rows[:needed])


def _texts(chosen: StudyArguments) -> tuple[list[str], list[str]]:
    """Texts to train on, and those that are held out."""
    trained: list[str] = []
    held_out: list[str] = []
    for spec in parse_dataset_args(str(chosen.dataset_args)):
        records = read(open_dataset(spec), Reading("text", chosen.text_field))
        parts: Any = ((trained, records.train), (held_out, records.test))
        for texts, rows in parts:
            texts += rows["text"] if rows is not None else []
    if not held_out:
        raise ConfigError(
            f"dataset_args {chosen.dataset_args} holds nothing out. Example: stories.txt[test:100], with <|endoftext|> "
            "between its stories, or a folder with train.txt and test.txt."
        )
    return trained, held_out


def _starts(chosen: StudyArguments, folder: Path, texts: Sequence[str]) -> dict[str, Path]:
    """A tokenizer, a Qwen2 with drawn weights, and the same weights with open attention."""
    starts = {objective: folder / objective for objective in OBJECTIVES}
    if starts["masked"].is_dir():  # written last, and whole
        return starts
    first = starts["autoregressive"]
    first.mkdir(parents=True, exist_ok=True)
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
    adapt(first, starts["masked"], AdaptArguments())
    return starts


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


def _remove_starts(folder: Path) -> None:
    """Remove first weights, and their folder where it holds nothing else."""
    for objective in OBJECTIVES:
        if (folder / objective).is_dir():
            shutil.rmtree(folder / objective)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _refuse_another(chosen: StudyArguments, folder: Path, held_out: str | None = None) -> dict[str, Any]:
    """What study.json is to say; refuse to add to another study.

    Args:
        held_out: digest of the rows to evaluate on; None: not known yet.
    """
    settings = {name: value for name, value in asdict(chosen).items() if name not in _MAY_GROW}
    mine, file = {**settings, "held_out": held_out}, folder / STUDY
    old = json.loads(file.read_text("utf-8")) if file.is_file() else mine
    changed = differences(old if held_out else {**old, "held_out": None}, mine)
    if changed:
        said = ", ".join(f"{name} {values}" for name, values in changed.items())
        raise ConfigError(f"{folder} holds another study ({said}). Use another output_dir.")
    return mine


def _advance(
    chosen: StudyArguments,
    folder: Path,
    material: Material,
    place: tuple[int, str, int],
    points: list[Row],
    tell: Callable[[str], None],
) -> None:
    """Bring a run to an epoch and add its line, where that is to be done."""
    unique, objective, epoch = place
    own = [row for row in points if (row["unique_tokens"], row["objective"]) == (unique, objective)]
    is_over = objective == "autoregressive" and study_page.has_risen(own, chosen.stop_rising)
    if is_over or any(row["epochs"] == epoch for row in own):
        return
    row = _measured(chosen, folder / f"{unique}-{objective}", material, place)
    points.append(row)
    with (folder / POINTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    tell(
        f"{unique:,} tokens, {objective}, epoch {epoch:,}: {row['nll']:.4f} ± {row['stderr']:.4f} nats per held-out "
        f"token after {row['flops']:.3g} FLOPs, {row['seconds']:.0f} s since the last point"
    )


def _measured(chosen: StudyArguments, folder: Path, material: Material, place: tuple[int, str, int]) -> Row:
    """Train to an epoch and evaluate there."""
    unique, objective, epoch = place
    updates = epoch * chosen.updates_per_epoch(unique)
    rows = _write_rows(chosen, folder.parent / f"{unique}-rows", material, unique)
    settings = _settings(chosen, folder, material.starts[objective], rows, (objective, updates))
    done = train(settings, verb="pretrain", console=Console(quiet=True))
    lock.hold(folder.parent)  # a run that ends lets go of all folders
    if done.stopped:
        raise KeyboardInterrupt(done.stopped)
    state = json.loads((folder / f"checkpoint-{updates}" / STATE).read_text("utf-8"))
    cases = score_passages(load(done.folder), material.held_out, LikelihoodSettings(chosen.samples, chosen.seed))
    figures = metrics_of(cases)
    return {
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
        "nats": [round(case["nats"], 4) for case in cases],
        "tokens": sum(case["tokens"] for case in cases),
    }


def _write_rows(chosen: StudyArguments, folder: Path, material: Material, unique: int) -> Path:
    """The rows of a size, as the trainer takes tokens that are packed already."""
    count = chosen.updates_per_epoch(unique) * chosen.per_device_train_batch_size
    if not (folder / "dataset_info.json").is_file():
        ids = material.rows[:count]
        columns = {"input_ids": ids, "document": [[0] * len(row) for row in ids]}
        Dataset.from_dict(columns, features=ROW_FEATURES).save_to_disk(folder)
    return folder


def _settings(chosen: StudyArguments, folder: Path, start: Path, rows: Path, how: tuple[str, int]) -> Settings:
    objective, updates = how
    trainer = {
        "output_dir": str(folder),
        "max_steps": updates,
        "lr_scheduler_type": "constant_with_warmup",
        "logging_steps": 50,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "report_to": "none",
    }
    same = ("per_device_train_batch_size", "learning_rate", "warmup_steps", "weight_decay", "adam_beta2")
    trainer |= {name: getattr(chosen, name) for name in (*same, "seed", "save_steps")}
    data = DataArguments(dataset_args=str(rows), max_length=chosen.max_length, load_preprocessed_data=True)
    learned: Any = ObjectiveArguments(objective=objective, masking="exact_count")  # type: ignore[arg-type]
    return Settings(ModelArguments(model_name_or_path=str(start)), data, learned, RunArguments(report=False), trainer)


def _document(chosen: StudyArguments, points: list[Row]) -> dict[str, Any]:
    """Results of this study's sizes, with what produced them."""
    own = [row for row in points if row["unique_tokens"] in chosen.unique_tokens]
    sizes = [study_page.compared(own, unique) for unique in sorted({row["unique_tokens"] for row in own})]
    result = report.Result(
        task="data_constrained",
        version=VERSION,
        data=str(chosen.dataset_args),
        metrics={
            f"{objective}, {size['unique_tokens']:,} tokens": report.Metric(
                best["nll"], best["stderr"], 0, "nats per token"
            )
            for size in sizes
            for objective, best in size["best"].items()
        },
        model=None,
        settings=asdict(replace(chosen, output_dir="-")),
        seed=chosen.seed,
        seconds=round(sum(row["seconds"] for row in own), 1),
        notes=study_page.notes(sizes, chosen.stop_rising),
    )
    return {**report.document(result), "sizes": sizes, "points": own}


def _write(folder: Path, found: dict[str, Any]) -> None:
    write_beside(folder / report.RESULTS, json.dumps(found, indent=1) + "\n")
    write_beside(folder / report.PAGE, study_page.page(found))
    write_beside(folder / FIGURE, study_page.figure(found["sizes"], found["points"]))
