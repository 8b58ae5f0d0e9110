"""What a training step costs: seconds and peak memory, beside a naive script's and ZHZisZZ/dllm's.

Models have random weights and are written to a folder, which all sides load. Each side is a process of its own; within
a round each does one whole step (forward, backward, clipping, fused AdamW) on the same rows and masks, one after the
other, on one thread; a GPU holds one side at a time, weights and optimizer of the others are in the computer's memory
meanwhile. In every round about half of what may be noised is, as in the mean step: our head's time follows
the noise and theirs does not. Times are CPU seconds, on a GPU those of the clock; a ratio is the median over the rounds
of theirs to ours. In float32 loss and gradients are compared with the naive script's, parameter by parameter.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "speed")]
from generate import Side  # noqa: E402

from models import CONFIGS, llada, write  # noqa: E402

DTYPES = ("float32", "bfloat16", "autocast")
# how much of what may be noised is in each round, and how nearly
_SHARE, _NEAR = 0.5, 0.01
# a logarithm's mean and deviation that give Alpaca's lengths: mean 177, median 136
_LENGTHS = (4.913, 0.72)


@dataclass(frozen=True)
class Case:
    """A model and rows to train it on.

    Attributes:
        name: as in the table. config: of the model. rows: of a step. length: of each row; 0: as long as Alpaca's.
        lora: train an adapter. recompute: each layer's activations, in the backward pass. gpu: for a GPU only.
        stored: type that the model is stored in.
    """

    name: str
    config: dict[str, Any]
    rows: int
    length: int = 0
    lora: bool = False
    recompute: bool = False
    gpu: bool = False
    dtypes: tuple[str, ...] = DTYPES
    stored: str = "float32"


LLADA_8B = {**llada(4096, 32, 32, 12_288, 126_464), "max_sequence_length": 4096}
# kept, the activations of 4,096 tokens are 50 GiB: beside them the naive script's logits have no room on most GPUs
_ADAPTED: dict[str, Any] = {"lora": True, "recompute": True, "gpu": True, "dtypes": ("bfloat16",), "stored": "bfloat16"}
CASES = (
    Case("124M, 2 x 1024", CONFIGS["124M"], 2, 1024),
    Case("124M, SFT", CONFIGS["124M"], 4),
    Case("0.9M, 4 x 256", CONFIGS["0.9M"], 4, 256),
    Case("124M, 16 x 1024", CONFIGS["124M"], 16, 1024, gpu=True, dtypes=("bfloat16", "autocast")),
    Case("1B, 4 x 2048", llada(2048, 16, 16, 5632, 126_464), 4, 2048, gpu=True, dtypes=("bfloat16", "autocast")),
    Case("8B, LoRA, 1 x 4096", LLADA_8B, 1, 4096, **_ADAPTED),
    Case("8B, LoRA, SFT", LLADA_8B, 8, **_ADAPTED),
)


def drawn_rows(case: Case, round_: int, lengths: list[tuple[int, int]]) -> tuple[list[list[int]], list[int]]:
    """Rows of a round, and how many tokens of each are given."""
    chance = random.Random(round_)
    words = case.config["vocab_size"] - 4
    sizes = [(0, case.length)] * case.rows if case.length else chance.sample(lengths, case.rows)
    return [[chance.randrange(words) for _ in range(size)] for _, size in sizes], [given for given, _ in sizes]


def alpaca_lengths(folder: Path | None) -> list[tuple[int, int]]:
    """Prompt and whole length of Alpaca's rows in GPT-2's tokens, cut at 1,024; else of rows drawn to be like them."""
    if folder is None:
        chance = random.Random(0)
        whole = [min(1024, max(16, round(chance.lognormvariate(*_LENGTHS)))) for _ in range(1000)]
        return [(length // 3, length) for length in whole]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "gpt2" / "tokenizer.json"))
    rows = json.loads(next((folder / "alpaca_en").glob("*gpt4*.json")).read_text(encoding="utf-8"))
    prompts = tokenizer.encode_batch([f"{row['instruction']}\n{row['input']}\n" for row in rows])
    answers = tokenizer.encode_batch([row["output"] for row in rows])
    lengths = [(len(prompt), len(prompt) + len(answer) + 1) for prompt, answer in zip(prompts, answers, strict=True)]
    return [(given, min(length, 1024)) for given, length in lengths if given < 1024]


def work_of(case: Case, round_: int, lengths: list[tuple[int, int]]) -> dict[str, Any]:
    """One step's rows, in our words and as the other side's collator would hand them over."""
    from train_side import batch_of

    rows, given = drawn_rows(case, round_, lengths)
    for first in count(1000 * round_ * case.rows, case.rows):
        work: dict[str, Any] = {"rows": rows, "given": given, "first": first}
        batch, noise, _ = batch_of(work, case.config, packed=False)
        may = int(batch.may_noise_BL.sum())
        if abs(len(noise.masked_at) - _SHARE * may) <= max(1, _NEAR * may):
            break
    padded = bool((batch.sample_BL < 0).any())
    return work | {
        "input_ids": batch.x0_BL.tolist(),
        "labels": batch.x0_BL.where(batch.may_noise_BL, -100).tolist(),
        "attention_mask": (batch.sample_BL >= 0).long().tolist() if padded else None,
        "masked": (noise.xt_BL != batch.x0_BL).tolist(),
        "times": noise.level_S.tolist(),
        "real": sum(map(len, rows)),
    }


def sides_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """Commands of the sides to be compared."""
    mine = [sys.executable, str(HERE / "speed" / "train_side.py")]
    sides = {"ours": [*mine, "ours"], "naive": [*mine, "naive"]}
    if options.peer:
        sides["dllm"] = [options.peer_python, str(HERE / "speed" / "dllm_train.py"), str(options.peer.resolve())]
    return {name: command for name, command in sides.items() if name not in options.without}


def measure(case: Case, dtype: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of a case; the first step wakes a side up and is not counted."""
    lengths = alpaca_lengths(options.alpaca)
    job = {"folder": str(folder), "dtype": dtype, "device": options.device}
    job |= {"lora": case.lora, "recompute": case.recompute}
    sides = {name: Side(command, options.core, options.device) for name, command in sides_of(options).items()}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    real = []
    for round_ in range(options.rounds + 1):
        work = work_of(case, round_, lengths)
        for name in list(sides) if round_ % 2 else reversed(sides):
            answers[name].append(sides[name].ask({**job, "work": work}))
        real.append(work["real"])
        took = ", ".join(f"{name} {steps[-1]['seconds']:.2f} s" for name, steps in answers.items())
        print(f"{case.name}, {dtype}, round {round_}: {took}", file=sys.stderr, flush=True)
    for side in sides.values():
        side.close()
    found = {"case": case.name, "dtype": dtype, "device": options.device, **figures(answers, real)}
    if dtype == "float32":
        checker = Side(sides_of(options)["ours"], options.core, options.device)
        found["apart"] = checker.ask({**job, "work": work_of(case, 0, lengths), "check": True})
        checker.close()
    return found


def figures(answers: dict[str, list[dict[str, Any]]], real: list[int]) -> dict[str, Any]:
    """Medians over the rounds; ratios are of the same round."""
    found: dict[str, Any] = {}
    for name, steps in answers.items():
        seconds = [step["seconds"] for step in steps[1:]]
        found[name] = {
            "seconds": seconds,
            "tokens_per_second": sum(real[1:]) / sum(seconds),
            "parts": {part: median(step["parts"][part] for step in steps[1:]) for part in steps[0]["parts"]},
            "peak": steps[-1]["peak"],
            "first_loss": steps[0]["loss"],
        }
    for name in found.keys() - {"ours"}:
        pairs = zip(found[name]["seconds"], found["ours"]["seconds"], strict=True)
        ratios = [theirs / mine for theirs, mine in pairs]
        found[name]["ratio"] = {"median": median(ratios), "least": min(ratios), "most": max(ratios)}
        found[name]["memory"] = found["ours"]["peak"] / found[name]["peak"]
        found[name]["loss_apart"] = abs(found["ours"]["first_loss"] / found[name]["first_loss"] - 1)
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Rows of the table, one per side."""
    for name in ("ours", "naive", "dllm"):
        if name not in found:
            continue
        side = found[name]
        cells = [found["case"], found["dtype"], name, f"{median(side['seconds']):.2f}"]
        cells += [f"{side['parts'][part]:.2f}" for part in ("forward", "backward", "clip", "optimizer")]
        cells += [f"{side['tokens_per_second']:.0f}", f"{side['peak'] / 1e9:.2f}"]
        if "ratio" in side:
            ratio = side["ratio"]
            cells += [f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"]
            cells += [f"{side['memory']:.2f}", f"{side['loss_apart']:.0e}"]
        else:
            cells += ["", "", ""]
        yield f"| {' | '.join(cells)} |"
    if "apart" in found:
        apart = found["apart"]
        yield f"\nfrom the naive script: loss {apart['loss']:.1e}, worst of {apart['parameters']} gradients " + (
            f"{apart['gradient']:.1e}, relative\n"
        )


HEAD = ["case", "dtype", "side", "seconds", "forward", "backward", "clip", "optimizer", "real tokens/s", "peak GB"]
HEAD += ["ratio of time", "our memory to theirs", "loss apart"]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=[case.name for case in CASES], help="default: all for the device")
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, help="default: all of a case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--without", nargs="*", default=[], choices=["naive", "dllm"], help="sides to leave out")
    parser.add_argument("--peer", type=Path, help="checkout of ZHZisZZ/dllm")
    parser.add_argument("--peer_python", default=sys.executable, help="Python that can import it")
    parser.add_argument("--core", type=int, help="processor core that all sides are pinned to (Linux)")
    parser.add_argument("--alpaca", type=Path, help="folder with alpaca_en/ and tokenizers/gpt2/, to draw lengths from")
    parser.add_argument("--models", type=Path, help="folder to keep the models in; default: a temporary one")
    parser.add_argument("--json", type=Path, help="append each case's figures to this file")
    return parser.parse_args(argv)


def run(options: argparse.Namespace, models: Path) -> None:
    """Measure and print case by case."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * 3}{'---:|' * (len(HEAD) - 3)}", flush=True)
    wanted = [
        case
        for case in CASES
        if (case.name in options.cases if options.cases else case.gpu == (options.device != "cpu"))
    ]
    for case in wanted:
        folder = write(models / str(case.config["d_model"]), case.config, dtype=case.stored)
        for dtype in (dtype for dtype in case.dtypes if not options.dtypes or dtype in options.dtypes):
            found = measure(case, dtype, folder, options)
            print("\n".join(lines(found)), flush=True)
            if options.json:
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        run(options, options.models or Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
