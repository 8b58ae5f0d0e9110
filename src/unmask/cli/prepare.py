"""`unmask prepare`: datasets -> a folder of tokens, and `unmask prepare tables`: corpora of tables -> conversations.

Parsing and printing only; `unmask.data.prepare` does the work.
"""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from unmask.cli.config import Parsed, parse, say
from unmask.cli.options import Option, OptionTable, declared
from unmask.errors import ConfigError
from unmask.training.arguments import DataArguments

DOES = (
    "Tokenise datasets into a folder that training starts from at once (--load_preprocessed_data true). "
    "unmask prepare tables --help: make conversations of corpora of tables."
)
# Settings of a run that say nothing about what the tokens are.
_OF_THE_RUN = (
    *("eval_dataset_args", "streaming", "random_length_ratio"),
    *("padding", "block_size", "packed_eos", "tokens_per_batch"),
)
_HERE = {
    "overwrite_cache": "Make the folder anew, also in the place of other data that was prepared there.",
    "packing": "Keep the documents of a corpus whole, for a run with --packing true, which lays several into a row.",
}
_ONLY_FOR = {
    "sft": ("truncation", "mask_prompt_loss", "train_turns"),
    "pretrain": ("text_field", "insert_eos", "drop_tail", "overlap", "packing"),
}
_COMMAND = (
    Option("model_name_or_path", str | None, None, "Folder or Hub id of the model whose tokenizer is used."),
    Option("output_dir", str | None, None, "Folder that the tokens are written to."),
    Option("mode", Literal["pretrain", "sft"] | None, None, "What the tokens are for: pretrain or sft."),
    Option(
        "to", Literal["arrow", "jsonl", "npy"], "arrow", "Format: arrow (a save_to_disk folder), jsonl, npy (numpy)."
    ),
    Option("overlap", int, 0, "Tokens with which a row of a corpus begins that the row before it ends with."),
    Option("dry_run", bool, False, "Show what would be written; write nothing."),
    Option("json", bool, False, "Print the result as one JSON object."),
)


def table() -> OptionTable:
    """The options: those of training that decide what the tokens are, and those of the command."""
    shared = (option for option in declared(DataArguments) if option.name not in _OF_THE_RUN)
    ours = tuple(replace(option, help=_HERE.get(option.name, option.help)) for option in shared)
    return OptionTable("prepare", DOES, (), (("The command", _COMMAND), ("The data, as in training", ours)))


def run(argv: list[str]) -> int:
    """Run `unmask prepare`."""
    if argv[:1] == ["tables"]:
        return import_module("unmask.cli.prepare_tables").run(argv[1:])
    parsed = parse(argv, table())
    if parsed is None:
        return 0
    mode = _checked(parsed)
    for name in _ONLY_FOR["pretrain" if mode == "sft" else "sft"]:
        if name in parsed:
            parsed = parsed.noted(f"note: {name} has no effect with --mode {mode}")
    say(parsed.notes)

    from unmask.data.prepare import Target, prepare

    started = time.perf_counter()
    folder = None if parsed["dry_run"] else Path(parsed["output_dir"]).expanduser()
    tokenizer = _tokenizer(parsed)
    target = Target(folder, parsed["to"], parsed["overlap"] if mode == "pretrain" else 0, parsed["overwrite_cache"])
    done = prepare(_data(parsed), tokenizer, mode, target)
    seconds = time.perf_counter() - started
    if parsed["json"]:
        told = {"folder": folder and str(folder), "to": done.to, "counts": done.counts, "notes": done.notes}
        print(json.dumps({**told, "kept": done.kept, "seconds": round(seconds, 3)}))
        return 0
    for line in (*done.notes, *_sample(done.sample, tokenizer), *_counted(done.counts)):
        print(line)
    print(_ending(folder, done.kept, mode, parsed))
    return 0


def _checked(parsed: Parsed) -> Any:
    """The mode, once everything that must be given is."""
    if parsed["model_name_or_path"] is None:
        raise ConfigError("no model is named, whose tokenizer is needed. Give --model_name_or_path FOLDER_OR_HUB_ID.")
    if parsed["dataset_args"] is None:
        raise ConfigError('no data is named. Give --dataset_args, for example "data/train.jsonl[test:100]".')
    if parsed["mode"] is None:
        raise ConfigError("what the tokens are for is not said. Give --mode pretrain, or --mode sft for conversations.")
    if parsed["output_dir"] is None and not parsed["dry_run"]:
        raise ConfigError("no output folder is named. Give --output_dir FOLDER.")
    for name in ("max_length", "num_proc"):
        if parsed[name] < 1:
            raise ConfigError(f"{parsed.label(name)} must be >= 1; got {parsed[name]}.")
    return parsed["mode"]


def _data(parsed: Parsed) -> DataArguments:
    names = [entry.name for entry in fields(DataArguments) if entry.name not in _OF_THE_RUN]
    return DataArguments(**{name: parsed[name] for name in names}, streaming=False)


def _tokenizer(parsed: Parsed) -> Any:
    from unmask.models.tokenizers import load_tokenizer

    return load_tokenizer(Path(parsed["model_name_or_path"]).expanduser(), add_mask_token=True)


def _sample(row: dict[str, Any], tokenizer: Any) -> list[str]:
    """The first row as text, cut to a few lines of a screen."""
    if not row:
        return []
    text = tokenizer.decode(row["input_ids"][:200]).replace("\n", "\\n")
    return [f"first row ({len(row['input_ids'])} tokens): {text}"]


def _counted(counts: dict[str, dict[str, int]]) -> list[str]:
    return [f"{name}: {some['rows']:,} rows, {some['tokens']:,} tokens" for name, some in counts.items()]


def _ending(folder: Path | None, kept: bool, mode: str, parsed: Parsed) -> str:
    if folder is None:
        return "nothing was written (dry_run)"
    if kept:
        return f"{folder} holds just this already and is kept; to make it anew: --overwrite_cache true"
    width = f" --max_length {parsed['max_length']}" if "max_length" in parsed else ""
    return f"saved {folder}; train with: unmask {mode} --dataset_args {folder} --load_preprocessed_data true{width} ..."
