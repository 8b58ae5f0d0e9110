"""`unmask prepare` against its tokenizer alone, its memory as a corpus grows, the cost of training from its folder.

A corpus is made of the documents of a JSON-lines file, drawn again and again. Speed: CPU seconds of preparing over
those of the tokenizer's own batches on the same texts, in turns, medians. Memory: what the process itself holds at most
beyond what it held before, at two sizes (`RssAnon`; mapped files can be dropped at any time and do not count). Loader:
CPU seconds that one update's batch costs (read, laid out, noised) over those of a training step of the tutorial's 124M
network on one thread. `--check` exits with 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

GROWTH = "memory of the larger corpus over the smaller's"
LIMITS = {"times the tokenizer's own": 1.2, GROWTH: 1.2, "loader / step": 0.01}
LENGTH, ROWS = 1024, 2


def tokenizer_of(file: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<|endoftext|>", mask_token="<|mask|>")


def write_corpus(source: Path, file: Path, megabytes: float) -> None:
    texts = [json.loads(line)["text"] for line in source.read_text("utf-8").splitlines()]
    chance, written = random.Random(0), 0
    with file.open("w", encoding="utf-8") as stream:
        while written < megabytes * 1e6:
            text = chance.choice(texts)
            written += stream.write(json.dumps({"text": text}) + "\n")


def prepared(corpus: Path, folder: Path, tokenizer: Any, num_proc: int = 1) -> int:
    """Prepare; the tokens."""
    from unmask.data.prepare import Target, prepare
    from unmask.training.arguments import DataArguments

    shutil.rmtree(folder, ignore_errors=True)
    data = DataArguments(dataset_args=str(corpus), max_length=LENGTH, num_proc=num_proc)
    return prepare(data, tokenizer, "pretrain", Target(folder)).counts["train"]["tokens"]


def speed(corpus: Path, folder: Path, tokenizer: Any, rounds: int) -> dict[str, float]:
    texts = [json.loads(line)["text"] for line in corpus.read_text("utf-8").splitlines()]
    ours, own, tokens = [], [], 0
    for _ in range(rounds):
        started = time.process_time()
        for start in range(0, len(texts), 1000):
            tokenizer(texts[start : start + 1000], add_special_tokens=False, return_attention_mask=False)
        own.append(time.process_time() - started)
        started = time.process_time()
        tokens = prepared(corpus, folder, tokenizer)
        ours.append(time.process_time() - started)
    return {
        "times the tokenizer's own": statistics.median(a / b for a, b in zip(ours, own, strict=True)),
        "million tokens / CPU second": tokens / statistics.median(ours) / 1e6,
    }


def held() -> float:
    """MiB that this process holds and no file does."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def peak_memory(corpus: Path, folder: Path, tokenizer: Any) -> float:
    before = most = held()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, held())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    prepared(corpus, folder, tokenizer)
    done.set()
    watcher.join()
    return most - before


def memory(args: argparse.Namespace, place: Path) -> dict[str, float]:
    """Each size in a process of its own."""
    found = {}
    for megabytes in args.megabytes:
        corpus = place / f"{megabytes}.jsonl"
        write_corpus(args.text, corpus, megabytes)
        command = [sys.executable, __file__, "--tokenizer", args.tokenizer, "--child", str(corpus)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[f"MiB held, {megabytes} MB of text"] = float(done.stdout.splitlines()[-1])
        corpus.unlink()
    small, large = found.values()
    return {**found, GROWTH: large / small}


def loader(folder: Path, tokenizer: Any, updates: int) -> dict[str, float]:
    import torch
    from datasets import load_from_disk

    from unmask.data.collate import Collator
    from unmask.models.facts import facts_of
    from unmask.models.families.llada import FAMILY
    from unmask.models.shell import DiffusionModel
    from unmask.objectives.masked import MaskedDiffusion
    from unmask.training.loading import LoaderOptions, Noiser, train_loader
    from unmask.training.plan import Order, Shares, row_lengths

    torch.set_num_threads(1)
    size = {"d_model": 448, "n_layers": 6, "n_heads": 7, "n_kv_heads": 7, "mlp_hidden_size": 768}
    size |= {"vocab_size": 126464, "embedding_size": 126464, "max_sequence_length": LENGTH}
    facts = facts_of({**FAMILY.tiny_config, **size})
    objective = MaskedDiffusion(126336)
    rows: Any = load_from_disk(str(folder))
    noiser = Noiser(Collator(tokenizer.eos_token_id, tokenizer.eos_token_id, "none"), objective)
    order = Order(row_lengths(rows), seed=1, update=ROWS)
    items = iter(train_loader(rows, order, Shares(ROWS), updates + 1, noiser, LoaderOptions()))
    item = next(items)
    started = time.process_time()
    count = sum(1 for _ in items)
    load = (time.process_time() - started) / count
    model = DiffusionModel(facts).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    steps = []
    for _ in range(2):
        started = time.process_time()
        (objective(model, item.batch, item.noise).loss / item.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(time.process_time() - started)
    return {"ms of CPU per batch": 1e3 * load, "s of CPU per step": steps[-1], "loader / step": load / steps[-1]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, help="JSON lines with a column text")
    parser.add_argument("--tokenizer", required=True, help="a tokenizer.json")
    parser.add_argument("--megabytes", type=int, nargs=2, default=(10, 200), help="sizes of the corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["speed", "memory", "loader"], help="one part")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = tokenizer_of(args.tokenizer)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if args.child:
            print(peak_memory(args.child, place / "out", tokenizer))
            return 0
        corpus, found = place / "corpus.jsonl", {}
        write_corpus(args.text, corpus, args.megabytes[0])
        if args.only in (None, "speed"):
            found |= speed(corpus, place / "out", tokenizer, args.rounds)
        if args.only in (None, "loader"):
            prepared(corpus, place / "out", tokenizer)
            found |= loader(place / "out", tokenizer, updates=200)
        if args.only in (None, "memory"):
            found |= memory(args, place)
    if args.json:
        print(json.dumps(found))
    else:
        for what, value in found.items():
            print(f"{what:>50}  {value:.3g}" + (f"   (at most {LIMITS[what]})" if what in LIMITS else ""))
    return int(args.check and any(found.get(what, 0) > most for what, most in LIMITS.items()))


if __name__ == "__main__":
    raise SystemExit(main())
