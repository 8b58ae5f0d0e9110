"""Plain values as lines of JSON, between a program that is not trusted and one that is.

Reading gives numbers, texts and containers of Python's own types whatever was sent, so that nothing sent can compare,
print or behave in a way of its own. Anything else stays where it is and is spoken of by its number.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from typing import Any, BinaryIO

_LONGEST_LINE = 1 << 26
_SAFE_INTEGER = 1 << 60
_CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def packed(value: Any, keep: Callable[[Any], int]) -> Any:
    """A value as JSON knows it; `keep` gives the number of what is not plain."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < _SAFE_INTEGER else {"int": hex(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, type) and vars(builtins).get(value.__name__) is value:
        return {"type": value.__name__}
    if isinstance(value, dict):
        return {"dict": [[packed(key, keep), packed(item, keep)] for key, item in value.items()]}
    for name, kind in _CONTAINERS.items():
        if isinstance(value, kind):
            return {name: [packed(item, keep) for item in value]}  # pyright: ignore[reportGeneralTypeIssues]
    return {"object": keep(value)}


def unpacked(value: Any, find: Callable[[int], Any]) -> Any:
    """The value; `find` gives what has a number. Raises ValueError: it is none."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](unpacked(item, find) for item in content)
    if kind == "dict":
        return {unpacked(key, find): unpacked(item, find) for key, item in content}
    if kind == "int":
        return int(content, 16)
    if kind == "complex":
        return complex(*content)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "type" and isinstance(vars(builtins).get(content), type):
        return vars(builtins)[content]
    if kind == "object":
        return find(int(content))
    raise ValueError(f'"{kind}" is no kind of value')


def send(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any]:
    """Read one message. Raises EOFError: the other side has ended."""
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise EOFError("the program ended, or said too much at once")
    return json.loads(line)
