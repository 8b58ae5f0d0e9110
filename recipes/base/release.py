"""Make the folder that ships out of a finished build: bfloat16 weights, tokenizer, and a model card with its scores.

python recipes/base/release.py --output_dir base --machine "one core of ..." --to src/unmask/demo/base
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from build import BATCH, RUNS
from score import scores

from unmask.lm import load

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="of the build")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--machine", required=True, help="what it was built on, for the card")
    parser.add_argument("--count", type=int, default=500, help="tables per size and kind of the scores")
    options = parser.parse_args()
    lm = load(options.output_dir / f"lesson-{len(RUNS)}", device="cpu", dtype="bfloat16")
    lm.save(options.to)
    for path in options.to.iterdir():
        if path.name not in FILES:
            path.unlink()
    shape = lm.model.trunk.shape
    digest = hashlib.sha256((options.to / "model.safetensors").read_bytes()).hexdigest()
    card = (
        (Path(__file__).parent / "card.md")
        .read_text("utf-8")
        .format(
            parameters=lm.model.num_parameters(),
            layers=shape.layers,
            width=shape.width,
            vocab=shape.vocab_size,
            batch=BATCH,
            lessons="\n".join(_lesson(options.output_dir, number) for number in range(1, 1 + len(RUNS))),
            machine=options.machine,
            digest=digest,
            count=options.count,
            scores=scores(load(options.to, device="cpu", dtype="float32"), options.count),
        )
    )
    (options.to / "README.md").write_text(card, "utf-8")


def _lesson(folder: Path, number: int) -> str:
    """A row of the table: updates, tokens read, minutes at the speed that was logged."""
    logged = [json.loads(line) for line in (folder / f"lesson-{number}" / "metrics.jsonl").open(encoding="utf-8")]
    with (folder / f"lesson-{number}.jsonl").open(encoding="utf-8") as rows:
        tokens = sum(len(json.loads(line)["input_ids"]) for line in rows)
    speed = [entry["tokens_per_second"] for entry in logged if "tokens_per_second" in entry]
    steps = max(entry["step"] for entry in logged)
    return f"| {number} | {steps:,} | {tokens:,} | {tokens * len(speed) / sum(speed) / 60:.0f} |"


if __name__ == "__main__":
    main()
