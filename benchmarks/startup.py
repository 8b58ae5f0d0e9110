"""How long `import unmask` and `unmask --help` take, as times and as multiples of an interpreter that does nothing.

The cases are run in turn, round after round, so that a busy machine slows all alike. Limits: 0.3 s for the import
and 0.5 s for the help. Prints figures; fails nothing unless `--check` is given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

CASES = {
    "python -c pass": ["-c", "pass"],
    "import unmask": ["-c", "import unmask"],
    "unmask --help": ["-m", "unmask", "--help"],
}
LIMITS = {"import unmask": 0.3, "unmask --help": 0.5}


def seconds(arguments: list[str]) -> float:
    """Wall-clock time of one interpreter with these arguments."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(rounds: int) -> dict[str, list[float]]:
    """Times of each case; one round before the first warms the disk's cache and is thrown away."""
    times: dict[str, list[float]] = {case: [] for case in CASES}
    for turn in range(rounds + 1):
        for case, arguments in CASES.items():
            elapsed = seconds(arguments)
            if turn:
                times[case].append(elapsed)
    return times


def report(times: dict[str, list[float]]) -> list[dict[str, float | str | None]]:
    bare = statistics.median(times["python -c pass"])
    return [
        {
            "case": case,
            "median_s": round(statistics.median(values), 4),
            "fastest_s": round(min(values), 4),
            "ratio": round(statistics.median(values) / bare, 2),
            "limit_s": LIMITS.get(case),
        }
        for case, values in times.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="runs of each case (default: 15)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a median is above its limit")
    options = parser.parse_args()
    rows = report(measure(options.rounds))
    if options.json:
        print(json.dumps(rows))
    else:
        print(f"{'':16}{'median':>10}{'fastest':>10}{'ratio':>8}{'limit':>8}")
        for row in rows:
            limit = "" if row["limit_s"] is None else f"{row['limit_s']:.1f} s"
            print(f"{row['case']:16}{row['median_s']:>8.3f} s{row['fastest_s']:>8.3f} s{row['ratio']:>8.2f}{limit:>8}")
    above = [row["case"] for row in rows if row["limit_s"] is not None and row["median_s"] > row["limit_s"]]
    return 1 if options.check and above else 0


if __name__ == "__main__":
    sys.exit(main())
