"""What an autoregressive model's weights are worth to a diffusion model: the bound on held-out stories, over updates.

A trained Llama of 260 thousand weights (stories260K) is converted, once with the shift dropped (row i predicts token i)
and once with it kept (row i goes on predicting token i + 1), and trained on as a diffusion model; beside them the same
network from scratch. All see the same rows, noise and updates. Writes a figure and a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# name -> layout that is converted into, and settings of the run
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "from scratch": ("a2d", {"from_scratch": True}),
    "converted, shift dropped": ("a2d", {}),
    "converted, shift kept": ("dream", {}),
    "shift dropped, eased": ("a2d", {"attention_annealing_steps": 50, "mask_noise_steps": 50}),
}
COLOURS = ("#888888", "#1f6fb4", "#c2461c", "#3b8c4a")


def prepare(shared: Path, folder: Path) -> dict[str, Path]:
    """The trained model in every layout that an arm begins from."""
    sys.path.insert(0, str(ROOT))
    from tests.stories import write_llama
    from unmask.convert.adapt import adapt
    from unmask.convert.options import AdaptArguments

    llama = write_llama(folder / "llama", shared / "data" / "weights_stories260k")
    found = {}
    for to in sorted({layout for layout, _ in ARMS.values()}):
        found[to] = adapt(llama, folder / to, AdaptArguments(to=to)).folder
    return found


def run(name: str, models: dict[str, Path], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One arm: the bound on held-out rows at each evaluation, nats per token."""
    from rich.console import Console

    from unmask.training.arguments import DataArguments, ModelArguments, ObjectiveArguments, RunArguments, Settings
    from unmask.training.run import train

    layout, changes = ARMS[name]
    stories = options.shared / "data/text_tinystories/tinystories_sample.first2000.txt"
    model = replace(ModelArguments(model_name_or_path=str(models[layout])), **changes)
    data = DataArguments(dataset_args=f"{stories}[test:{options.held_out}]", max_length=options.length)
    trainer = {
        "output_dir": str(folder / name.replace(" ", "-")),
        "max_steps": options.updates,
        "per_device_train_batch_size": options.rows,
        "per_device_eval_batch_size": 32,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "eval_strategy": "steps",
        "eval_steps": options.every,
        "eval_on_start": True,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": options.every,
        "seed": options.seed,
    }
    started = time.perf_counter()
    settings = Settings(model, data, ObjectiveArguments(), RunArguments(report=False), trainer)
    done = train(settings, verb="pretrain", console=Console(quiet=True))
    bound = [(line["step"], line["eval_nll"]) for line in done.history if "eval_nll" in line]
    return {"arm": name, "bound": bound, "seconds": round(time.perf_counter() - started, 1)}


def svg(results: list[dict[str, Any]], tokens: int) -> str:
    """Curves over updates, as a picture that needs nothing else."""
    width, height, left, bottom, right = 640, 360, 56, 44, 16
    last = results[0]["bound"][-1][0]
    values = [value for result in results for step, value in result["bound"] if step]
    # room for the legend above the curves; what was before the first update would squeeze them
    low, high = min(values) - 0.05, max(values) + 0.3

    def place(step: float, value: float) -> str:
        x = left + (width - left - right) * step / last
        y = 12 + (height - bottom - 12) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    marks = [low + (high - low) * part / 4 for part in range(5)]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for mark in marks:
        y = place(0, mark).split(",")[1]
        parts.append(f'<path d="M{left},{y}H{width - right}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y}" dy="4" font-size="12" text-anchor="end">{mark:.2f}</text>')
    for part in range(5):
        step = last * part // 4
        x = place(step, low).split(",")[0]
        parts.append(f'<text x="{x}" y="{height - 26}" font-size="12" text-anchor="middle">{step}</text>')
    label = f"updates of {tokens:,} tokens; held-out bound, nats per token"
    parts.append(f'<text x="{left}" y="{height - 8}" font-size="12">{label}</text>')
    for number, (result, colour) in enumerate(zip(results, COLOURS, strict=True)):
        points = " ".join(place(step, value) for step, value in result["bound"] if step)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = 28 + 18 * number
        parts.append(f'<path d="M{width - 210},{y}h22" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{width - 182}" y="{y + 4}" font-size="12">{result["arm"]}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(results: list[dict[str, Any]]) -> str:
    """The same as Markdown: a row per evaluation."""
    lines = ["| updates | " + " | ".join(result["arm"] for result in results) + " |"]
    lines.append("|---:|" + "---:|" * len(results))
    for index, (step, _) in enumerate(results[0]["bound"]):
        lines.append(f"| {step} | " + " | ".join(f"{result['bound'][index][1]:.3f}" for result in results) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder with data/")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="updates between evaluations")
    parser.add_argument("--rows", type=int, default=8, help="rows of an update")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--held_out", type=int, default=60, help="stories to evaluate on")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--figure", type=Path, help="write the curves to this file, an SVG")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = prepare(options.shared, Path(folder))
        results = [run(name, models, options, Path(folder)) for name in options.arms]
    if options.figure:
        options.figure.write_text(svg(results, options.rows * options.length), encoding="utf-8")
    print(json.dumps(results) if options.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
