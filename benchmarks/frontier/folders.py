"""The models of the frontier before training: configuration and tokenizer of each task, and its rows to learn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.frontier.tasks import CHECKED, stories
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from unmask.models.families.llada import FAMILY

MASK, END = "<|mask|>", "<|end|>"
CHARACTERS = "0123456789+=."
SIZE = {"d_model": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 352, "rope_theta": 10000.0}
STORIES = "text_tinystories/tinystories_sample.first2000.txt"
BETWEEN = "<|endoftext|>"


def write_characters(folder: Path) -> Path:
    """A network of characters, without weights."""
    vocabulary = {token: index for index, token in enumerate((MASK, END, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    dressed = PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token=MASK, eos_token=END, pad_token=END)
    return _write(folder, dressed, SIZE, 64)


def write_stories(folder: Path, weights: Path) -> Path:
    """stories260K made a diffusion model in Dream's layout, which keeps what its rows predict; `judge` is as it was."""
    from tests.stories import write_llama
    from unmask.convert.adapt import adapt
    from unmask.convert.options import AdaptArguments

    judge = write_llama(folder.with_name("judge"), weights)
    return adapt(judge, folder, AdaptArguments(to="dream")).folder


def _write(folder: Path, tokenizer: PreTrainedTokenizerFast, size: dict[str, float], length: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    ids = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": tokenizer.eos_token_id}
    rows = {"vocab_size": len(tokenizer), "embedding_size": len(tokenizer), "pad_token_id": tokenizer.eos_token_id}
    config = {**FAMILY.tiny_config, **size, **ids, **rows, "max_sequence_length": length, "weight_tying": True}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def write_rows(path: Path, name: str, tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> Path:
    """What the checked tasks are learned from: conversations about tables, token rows of sums and grids.

    Rows that are there are kept: they follow from the seed.
    """
    if path.exists():
        return path
    task, unfinished = CHECKED[name], path.with_suffix(".part")
    with unfinished.open("w", encoding="utf-8") as file:
        for question in task.some("train", count, seed):
            if name == "tables":
                turns = [("user", question.prompt), ("assistant", question.answer)]
                row: dict[str, object] = {"messages": [{"role": role, "content": text} for role, text in turns]}
            else:
                prompt, answer = tokenizer(question.prompt).input_ids, tokenizer(question.answer).input_ids
                ends = [tokenizer.eos_token_id] * (task.canvas - len(answer))
                row = {"input_ids": [*prompt, *answer, *ends], "prompt_len": len(prompt)}
            file.write(json.dumps(row) + "\n")
    return unfinished.replace(path)


def write_texts(path: Path, shared: Path) -> Path:
    """The stories to learn from."""
    path.write_text(f"\n{BETWEEN}\n".join(entry.prompt for entry in stories(texts(shared), "train")), encoding="utf-8")
    return path


def texts(shared: Path) -> Sequence[str]:
    """All stories."""
    return [text.strip() for text in (shared / STORIES).read_text(encoding="utf-8").split(BETWEEN) if text.strip()]
