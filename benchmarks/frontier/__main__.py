"""What each strategy and cache costs and is worth: train small models, measure them, write the table and the figure."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.frontier.train import TASKS, train_all

ROOT = Path(__file__).resolve().parents[2]


def write_report(options: argparse.Namespace) -> None:
    """Print the tables; write figures and all numbers where a folder is named."""
    from benchmarks.frontier import figure, report
    from benchmarks.frontier.measure import read
    from benchmarks.frontier.settings import settings

    compared = {setting.name for setting in settings("tables")}
    rows = [row for row in read(options.results) if row["setting"] in compared]
    for (task, model), share in report.left_out(rows).items():
        print(f"{model} is left out: {100 * share:.0f} % of {task} right under {report.BASELINE.name}", file=sys.stderr)
    found = report.summarise(rows)
    print("without a cache\n\n" + report.strategies_table(found))
    for strategy, knob in (("confidence", 0), ("threshold", 0), ("threshold", 1)):
        print(f"\n{strategy} on each cache\n\n" + report.caches_table(found, strategy, knob))
    print("\nopen length\n\n" + report.lengths_table(found))
    print("\nno loss on any task\n\n" + report.ranking(found))
    if options.assets:
        options.assets.mkdir(parents=True, exist_ok=True)
        (options.assets / "frontier-strategies.svg").write_text(figure.strategies(found), encoding="utf-8")
        (options.assets / "frontier-caches.svg").write_text(figure.caches(found), encoding="utf-8")
        (options.assets / "frontier.csv").write_text(report.everything(found), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier", description=__doc__)
    parser.add_argument("what", choices=["train", "measure", "report"])
    parser.add_argument("--models", type=Path, required=True, help="folder of the trained models")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder with data/")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="updates, instead of each task's own")
    parser.add_argument("--results", type=Path, help="file of the measurements; default: in the folder of the models")
    parser.add_argument("--questions", type=int, default=60, help="of each task and seed; half as many stories")
    parser.add_argument("--assets", type=Path, help="report: folder to write the figures and all numbers to")
    options = parser.parse_args()
    options.results = options.results or options.models / "results.jsonl"
    if options.what == "train":
        train_all(options)
    elif options.what == "report":
        write_report(options)
    else:
        import torch
        from benchmarks.frontier.measure import measure_all

        torch.set_num_threads(1)
        measure_all(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
