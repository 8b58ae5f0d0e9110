"""Rows of our own generator, to try things with. A stand-in until the generator is written."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Literal

EXAMPLE_KINDS = ("text", "tables")
EXAMPLE_NAMES: dict[str, tuple[str, ...]] = {"text": ("",), "tables": ("", "easy")}


def example_rows(
    kind: str, *, name: str, count: int, seed: int, split: Literal["train", "test"]
) -> Iterator[dict[str, Any]]:
    """Generated rows: `text`, or `messages` about a table."""
    chance = Random(f"{kind} {name} {seed} {split}")
    for _ in range(count):
        left, right = chance.randrange(100), chance.randrange(100)
        if kind == "text":
            yield {"text": f"The sum of {left} and {right} is {left + right}."}
        else:
            asked = {"role": "user", "content": f"| a | b | [SEP] | {left} | {right} | What is b?"}
            yield {"messages": [asked, {"role": "assistant", "content": str(right)}]}
