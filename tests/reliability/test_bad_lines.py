"""Lines of JSON with random bytes changed: never a traceback, always the file, the line and a reason."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from unmask.data.formats import read_rows
from unmask.data.rows import Row
from unmask.errors import DataError

ROWS = [
    {"text": 'a "b"\n\tc \u00e9 \u4e2d'},
    {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]},
    {"instruction": "add", "input": "[1, 2.5e3, null]", "output": "true"},
]
ONCE = 200


def mutated(line: bytes, chance: random.Random) -> bytes:
    """The line with one to three places changed, no line break among them."""
    changed = bytearray(line)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed))
        new = bytes(chance.choice(b'{}[]":,\\0123eE+-.ntu\xff\xc3\x00 ') for _ in range(chance.randint(0, 3)))
        changed[at : at + chance.randint(0, 4)] = new
    return bytes(changed).replace(b"\n", b"").replace(b"\r", b"")


def test_mutated_lines(tmp_path: Path, count: Callable[[int, int], int], figure: Callable) -> None:
    chance, lines, bad = random.Random(7), count(2_000, 20_000), 0
    sound = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
    for number in range(lines // ONCE):
        file = tmp_path / f"{number}.jsonl"
        written = [mutated(chance.choice(sound), chance) for _ in range(ONCE)]
        file.write_bytes(b"\n".join(written) + b"\n")
        told = list(read_rows(file))
        for entry in told:
            where = entry.where if isinstance(entry, Row) else str(entry)
            assert re.match(rf"{re.escape(str(file))}:\d+", where), where
        reasons = [str(entry) for entry in told if isinstance(entry, DataError)]
        assert all(len(reason) > len(str(file)) + 12 for reason in reasons)
        # every line that holds anything is there, as a row or as a reason
        assert len(told) == sum(bool(line.strip()) for line in written)
        unreadable = sum(not reads(line) for line in written if line.strip())
        assert len(reasons) >= unreadable
        bad += len(reasons)
    assert lines // 3 < bad < lines
    figure(f"R19 {lines:,} mutated lines, {bad:,} of them bad: each with its file, its number and a reason")


def reads(line: bytes) -> bool:
    """Whether Python's own reader takes a line for an object."""
    try:
        return isinstance(json.loads(line.decode()), dict)
    except (ValueError, RecursionError):
        return False
