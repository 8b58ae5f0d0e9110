"""What the base reads: values of statements about unseen tables, hidden and told from the table.

python recipes/base/score.py FOLDER [--count 200]
"""

from __future__ import annotations

import argparse
from itertools import islice
from random import Random

import torch
from rows import reading_row

from unmask.data.table_queries import Kind
from unmask.data.table_reading import REASONED, Reading, statement
from unmask.data.tables import TableOptions, make_tables, serialise
from unmask.lm import DiffusionLM, load

SIZES = (((2, 4), (1, 2)), ((2, 6), (2, 4)), ((6, 10), (3, 4)))
KINDS: tuple[Kind, ...] = ("look-up", *REASONED)


def main() -> None:
    """Print the scores of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of the model")
    parser.add_argument("--count", type=int, default=200, help="statements of each kind and size")
    options = parser.parse_args()
    print(scores(load(options.folder, device="cpu", dtype="float32"), options.count))


def scores(lm: DiffusionLM, count: int) -> str:
    """A markdown table: share of the statements, in per cent, whose hidden tokens are all told right."""
    lines = [f"| rows, columns | {' | '.join(KINDS)} |", "|---" * (1 + len(KINDS)) + "|"]
    for rows, columns in SIZES:
        tables = TableOptions(seed=1, rows=rows, columns=columns)
        right = (f"{100 * _share(lm, tables, kind, count):.0f}" for kind in KINDS)
        lines.append(f"| {rows[0]}-{rows[1]}, {columns[0]}-{columns[1]} | {' | '.join(right)} |")
    return "\n".join(lines)


def _share(lm: DiffusionLM, options: TableOptions, kind: Kind, count: int) -> float:
    tables = enumerate(make_tables(options, split="test"))
    told = ((table, statement(table, kind, Random(number))) for number, table in tables)
    readings = (Reading(f"{serialise(table)}\n", pieces) for table, pieces in told if pieces)
    return sum(_is_told(lm, reading) for reading in islice(readings, count)) / count


@torch.inference_mode()
def _is_told(lm: DiffusionLM, reading: Reading) -> bool:
    row, mask = reading_row(reading, "value", lm.tokenizer), lm.tokenizer.mask_token_id
    ids, hidden = torch.tensor([row["input_ids"]]), torch.tensor([row["may_noise"]])
    logits = lm.model(torch.where(hidden, mask, ids)).logits
    logits[..., mask] = -torch.inf
    return bool((logits.argmax(-1) == ids)[hidden].all())


if __name__ == "__main__":
    main()
