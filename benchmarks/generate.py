"""What generation costs: tokens per second, forwards and positions, and the same work done by ZHZisZZ/dllm.

Models have random weights and are written to a folder, which both sides load. Each side is a process that stays alive;
within a round both decode the same prompts, one after the other, on one thread. Times are CPU seconds, a ratio is the
median over the rounds of theirs to ours. Tokens of greedy decoding are compared. What settings are worth on
models that learned something is measured by `python -m benchmarks.frontier`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
SPECIAL = 4


@dataclass(frozen=True)
class Case:
    """One way to decode, for both sides.

    Attributes:
        name: as in the table.
        model: see `speed.models.CONFIGS`.
        ours: settings of `lm.generate`, beside length, block and steps.
        peer: sampler of theirs and its settings.
        rows: prompts of a batch. new: tokens to write. steps: in all.
    """

    name: str
    model: str
    ours: dict[str, Any]
    peer: dict[str, Any]
    rows: int = 1
    new: int = 128
    steps: int = 128
    dtypes: tuple[str, ...] = ("float32",)
    block: int = 32
    prompt: int = 64

    @property
    def is_greedy(self) -> bool:
        """Whether both sides should write the same tokens."""
        return self.ours.get("temperature", 0) == 0


BOTH = ("float32", "bfloat16")
FAST = {"sampler": "fastdllm"}
BLOCK = {"cache": "block", "attention": "block_causal"}
CASES = (
    Case("no cache", "124M", {"cache": "none"}, {"sampler": "mdlm"}, dtypes=BOTH),
    # dLLM's other sampler compares probabilities in float32, its first in the dtype of the logits
    Case("no cache, Fast-dLLM", "124M", {"cache": "none"}, FAST, dtypes=BOTH),
    Case("temperature 1", "124M", {"cache": "none", "temperature": 1.0}, {"sampler": "mdlm", "temperature": 1.0}),
    Case("prefix cache", "124M", {"cache": "prefix"}, {**FAST, "use_cache": "prefix"}, dtypes=BOTH),
    Case("dual cache", "124M", {"cache": "dual"}, {**FAST, "use_cache": "dual"}, dtypes=BOTH),
    Case("block cache", "block", {"cache": "block", "attention": "block_causal"}, {"sampler": "bd3lm"}, 1, 512, 64),
    Case(
        "block cache, 4 rows",
        "block",
        {"cache": "block", "attention": "block_causal"},
        {"sampler": "bd3lm"},
        4,
        512,
        64,
    ),
    Case("no cache, 4 rows", "0.9M", {"cache": "none"}, {"sampler": "mdlm"}, rows=4, dtypes=BOTH),
    Case("dual cache, 4 rows", "0.9M", {"cache": "dual"}, {**FAST, "use_cache": "dual"}, rows=4, dtypes=BOTH),
)


class CannotDecode(Exception):
    """A side refused a job."""


class Side:
    """A process that works on request, on one thread; where that is on the CPU, no GPU is shown to it."""

    def __init__(self, command: list[str], core: int | None, device: str = "cpu") -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        # a file, since nobody reads a pipe until the process has ended, and it waits where that is full
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, env=environment
        )
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Hand over a job, wait for its answer."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._said.seek(0)
            raise SystemExit(f"a side ended:\n{self._said.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise CannotDecode(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._said.close()


def job_of(case: Case, dtype: str, folder: Path, vocabulary: int, seed: int) -> dict[str, Any]:
    """What both sides are asked for in one round."""
    chance = random.Random(seed)
    prompts = [[chance.randrange(vocabulary - SPECIAL) for _ in range(case.prompt)] for _ in range(case.rows)]
    length = {"max_new_tokens": case.new, "block_size": case.block, "steps": case.steps}
    ours = {**length, "early_stop": False, **case.ours}
    peer = {**length, **case.peer}
    return {"folder": str(folder), "dtype": dtype, "prompts": prompts, "ours": ours, "peer": peer}


def first_difference(ours: list[list[int]], theirs: list[list[int]]) -> tuple[int, int] | None:
    """Row and place of the first token that differs."""
    for row, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for place, (left, right) in enumerate(zip(mine, other, strict=True)):
            if left != right:
                return row, place
    return None


def measure(case: Case, dtype: str, folder: Path, sides: dict[str, Side], rounds: int) -> dict[str, Any]:
    """All rounds of a case; the first, which is not counted, wakes both sides up."""
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, dict[str, Any]] = {}
    differences = []
    for number in range(rounds + 1):
        job = job_of(case, dtype, folder, vocabulary, number)
        if number == 0:
            # two blocks, so that a compiled side meets every shape
            short = {"max_new_tokens": 2 * case.block, "steps": 4}
            job = {**job, "ours": {**job["ours"], **short}, "peer": {**job["peer"], **short}}
        names = list(sides) if number % 2 else list(reversed(sides))
        answers = {name: sides[name].ask(job) for name in names}
        if number:
            for name in sides:
                seconds[name].append(answers[name]["seconds"])
            if "peer" in sides and case.is_greedy:
                differences.append(first_difference(answers["ours"]["tokens"], answers["peer"]["tokens"]))
    return {**_figures(case, dtype, seconds, answers), "differences": differences}


def _figures(
    case: Case, dtype: str, seconds: dict[str, list[float]], answers: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    written = case.rows * case.new
    figures: dict[str, Any] = {"case": case.name, "model": case.model, "dtype": dtype, "seconds": seconds}
    figures["settings"] = asdict(case)
    for name, answer in answers.items():
        figures[name] = {
            "tokens_per_second": written / median(seconds[name]),
            "forwards": answer["forwards"],
            "tokens_per_forward": case.new / answer["forwards"],
            "positions_per_token": answer["positions"] / written,
        }
    for name, whose in (("ratio", "ours"), ("ratio_compiled", "compiled")):
        if "peer" in answers and whose in answers:
            figures[name] = _ratio(seconds["peer"], seconds[whose])
    if "compiled" in answers:
        figures["gain"] = _ratio(seconds["ours"], seconds["compiled"])
        figures["compiled_same"] = answers["ours"]["tokens"] == answers["compiled"]["tokens"]
    return figures


def _ratio(longer: list[float], shorter: list[float]) -> dict[str, float]:
    """Round by round."""
    ratios = [one / other for one, other in zip(longer, shorter, strict=True)]
    return {"median": median(ratios), "least": min(ratios), "most": max(ratios)}


def spread(ratio: dict[str, float]) -> str:
    """Of the rounds."""
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    ours, peer, ratio = found["ours"], found.get("peer"), found.get("ratio")
    cells = [found["case"], found["model"], found["dtype"], f"{ours['tokens_per_second']:.1f}", str(ours["forwards"])]
    cells += [f"{ours['tokens_per_forward']:.2f}", f"{ours['positions_per_token']:.1f}"]
    if peer and ratio:
        cells += [f"{peer['tokens_per_second']:.1f}", f"{peer['positions_per_token']:.1f}", spread(ratio), same(found)]
    if "gain" in found:
        cells += [f"{found['compiled']['tokens_per_second']:.1f}", spread(found["gain"])]
        cells += [spread(found["ratio_compiled"])] if peer else []
    return "| " + " | ".join(cells) + " |"


def same(found: dict[str, Any]) -> str:
    """What the comparison of the tokens says."""
    places = [place for place in found["differences"] if place is not None]
    if not found["differences"]:
        return "random"
    if not places:
        return "all"
    same_rounds = len(found["differences"]) - len(places)
    return f"{same_rounds} of {len(found['differences'])} rounds; from row {places[0][0]}, token {places[0][1]}"


def head(has_peer: bool, has_compiled: bool) -> str:
    """The first lines of the table."""
    names = ["case", "model", "dtype", "tokens/s", "forwards", "tokens per forward", "positions per token"]
    names += ["dllm: tokens/s", "positions per token", "ratio of CPU time", "same tokens"] if has_peer else []
    names += ["compiled: tokens/s", "gain"] if has_compiled else []
    names += ["compiled: ratio"] if has_compiled and has_peer else []
    return f"| {' | '.join(names)} |\n|{'---|' * 3}{'---:|' * (len(names) - 3)}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=[case.name for case in CASES], help="default: all")
    parser.add_argument("--dtypes", nargs="*", choices=BOTH, help="default: all of a case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="denoising steps, instead of each case's own")
    parser.add_argument("--peer", type=Path, help="checkout of ZHZisZZ/dllm")
    parser.add_argument("--peer_python", default=sys.executable, help="Python that can import it")
    parser.add_argument("--compile", action="store_true", help="a further side of ours whose layers are compiled")
    parser.add_argument("--core", type=int, help="processor core that both sides are pinned to (Linux)")
    parser.add_argument("--models", type=Path, help="folder to keep the models in; default: a temporary one")
    parser.add_argument("--json", type=Path, help="append each row of figures to this file")
    return parser.parse_args()


def run(options: argparse.Namespace, models: Path) -> None:
    """Measure and print row by row."""
    from speed.models import CONFIGS, write

    sides = {"ours": Side([sys.executable, str(HERE / "speed" / "ours.py")], options.core)}
    if options.compile:
        sides["compiled"] = Side([sys.executable, str(HERE / "speed" / "ours.py"), "compile"], options.core)
    if options.peer:
        command = [options.peer_python, str(HERE / "speed" / "dllm_side.py"), str(options.peer.resolve())]
        sides["peer"] = Side(command, options.core)
    print(head(bool(options.peer), options.compile), flush=True)
    for case in (case for case in CASES if not options.cases or case.name in options.cases):
        case = case if options.steps is None else Case(**{**asdict(case), "steps": options.steps})
        folder = write(models / case.model, CONFIGS[case.model])
        for dtype in (dtype for dtype in case.dtypes if not options.dtypes or dtype in options.dtypes):
            try:
                found = measure(case, dtype, folder, sides, options.rounds)
            except CannotDecode as error:
                print(f"{case.name}: {error}", file=sys.stderr)
                continue
            print(line(found), flush=True)
            if options.json:
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
    for side in sides.values():
        side.close()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        run(options, options.models or Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
