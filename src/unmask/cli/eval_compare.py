"""`unmask eval compare A B`: parsing and printing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from unmask.cli import sampling
from unmask.cli.config import parse
from unmask.cli.options import OptionTable
from unmask.errors import ConfigError

DOES = (
    "Compare two evaluations case by case: the difference of every metric that both have, with an interval. Each is a "
    "folder that unmask eval has written, of the same data."
)
EXAMPLES = """\
examples:
  unmask eval compare runs/before runs/after
  unmask eval compare --json runs/before/cases.jsonl runs/after/cases.jsonl
"""


@dataclass(frozen=True)
class EvalCompareArguments:
    """How"""

    seed: int = 0
    """Of the resamples that the intervals come from."""
    json: bool = False
    """Print the comparison as one JSON object."""


def run(argv: list[str]) -> int:
    """Run `unmask eval compare`."""
    parsed = parse(argv, OptionTable("eval compare", DOES, (EvalCompareArguments,), words="A B"))
    if parsed is None:
        print(EXAMPLES)
        return 0
    sampling.say_notes(parsed)
    places = parsed.words
    if len(places) != 2:
        raise ConfigError("eval compare takes two folders. Example: unmask eval compare runs/before runs/after")
    from unmask.evaluation import compare

    found = compare.compare(*(Path(place).expanduser() for place in places), seed=parsed["seed"])
    names = places[0], places[1]
    told = json.dumps(compare.document(names, found)) if parsed["json"] else compare.page(names, found)
    print(told)
    return 0
