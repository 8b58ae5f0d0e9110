"""What each strategy and cache costs and is worth: train small models, measure them, write the table and the figure."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.frontier.train import TASKS, train_all

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier", description=__doc__)
    parser.add_argument("what", choices=["train"])
    parser.add_argument("--models", type=Path, required=True, help="folder of the trained models")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder with data/")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="updates, instead of each task's own")
    options = parser.parse_args()
    train_all(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
