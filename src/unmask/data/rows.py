"""A row of a dataset and its place, or what is wrong with it. Knows no file format and no meaning of a row."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from unmask.errors import DataError


class BadRow(DataError):
    """A row that cannot be used: where it is, why, and a word (`kind`) that rows with the same problem share."""

    def __init__(self, where: str, reason: str, kind: str = "json") -> None:
        super().__init__(where, reason, kind)
        self.where, self.reason, self.kind = where, reason, kind

    def __str__(self) -> str:
        return f"{self.where} {self.reason}"


class Row(NamedTuple):
    """One object of a dataset and its place, as `file:line` or `dataset row 7`, both counted from 1."""

    where: str
    fields: dict[str, Any]


def json_type(value: Any) -> str:
    """What JSON calls the type of a value, with the value where that is short: `number 5`, `null`, `array`."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"number {value}"
    return {str: "string", list: "array", dict: "object"}.get(type(value), type(value).__name__)
