"""Plain values as lines of JSON, between a program that is not trusted and one that is.

Reading gives numbers, texts, dates and containers of Python's own types whatever was sent, so that nothing sent can
compare, print or behave in a way of its own. Anything else stays where it is and is spoken of by a reference.
"""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, BinaryIO

_LONGEST_LINE = 1 << 26
_SAFE_INTEGER = 1 << 60
_CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_VIEWS: dict[str, Any] = {"keys": type({}.keys()), "items": type({}.items())}
# kinds of values of the standard library, and what makes one again
_PARTS: dict[str, Callable[[Any], list[Any]]] = {
    "builtins.range": lambda value: [value.start, value.stop, value.step],
    "decimal.Decimal": lambda value: [str(value)],
    "fractions.Fraction": lambda value: [value.numerator, value.denominator],
    "collections.deque": lambda value: [list(value), value.maxlen],
    "collections.Counter": lambda value: [dict(value)],
    "collections.OrderedDict": lambda value: [list(value.items())],
    "datetime.datetime": lambda value: [
        *(value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, _zone(value))
    ],
    "datetime.date": lambda value: [value.year, value.month, value.day],
    "datetime.time": lambda value: [value.hour, value.minute, value.second, value.microsecond, _zone(value)],
    "datetime.timedelta": lambda value: [value.days, value.seconds, value.microseconds],
    "datetime.timezone": lambda value: [value.utcoffset(None)],
}
# of numpy's kinds: truths, numbers and texts
_ARRAYS = "biufcSU"


def packed(value: Any, refer: Callable[[Any], Any]) -> Any:
    """A value as JSON knows it; `refer` says how to speak of one that is not plain."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < _SAFE_INTEGER else {"int": hex(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes" if isinstance(value, bytes) else "bytearray": value.hex()}
    if isinstance(value, type) and vars(builtins).get(value.__name__) is value:
        return {"type": value.__name__}
    made = _taken_apart(value)
    if made is not None:
        return {made[0]: [packed(part, refer) for part in made[1]]}
    if isinstance(value, dict):
        return {"dict": [[packed(key, refer), packed(item, refer)] for key, item in value.items()]}
    for name, kind in [*_CONTAINERS.items(), *_VIEWS.items()]:
        if isinstance(value, kind):
            return {name: [packed(item, refer) for item in value]}  # pyright: ignore[reportGeneralTypeIssues]
    return refer(value)


def _taken_apart(value: Any) -> tuple[str, list[Any]] | None:
    """The kind of a value of the standard library or of numpy, and its parts; a kind of one's own is its base."""
    kind = type(value)
    if kind in (list, dict, tuple, set):
        return None
    for base in kind.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        if name in _PARTS and getattr(sys.modules.get(base.__module__), base.__name__, None) is base:
            return name, _PARTS[name](value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in _ARRAYS:
        return "array", [value.dtype.str, list(value.shape), value.ravel().tolist()]
    return None


def _zone(value: Any) -> Any:
    """The zone at this time, of which only the distance from UTC matters to a comparison."""
    away = value.utcoffset()
    return None if away is None else sys.modules["datetime"].timezone(away)


def unpacked(value: Any, find: Callable[[str, Any], Any]) -> Any:
    """The value; `find` gives what a reference speaks of, by its kind and content, or raises ValueError."""
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
    if kind in ("bytes", "bytearray"):
        return getattr(builtins, kind).fromhex(content)
    if kind == "type" and isinstance(vars(builtins).get(content), type):
        return vars(builtins)[content]
    if kind == "keys":
        return dict.fromkeys(unpacked(item, find) for item in content).keys()
    if kind == "items":
        return dict(unpacked(item, find) for item in content).items()
    if kind in _PARTS or kind == "array":
        return _put_together(kind, [unpacked(part, find) for part in content])
    return find(kind, content)


def _put_together(kind: str, parts: list[Any]) -> Any:
    if kind != "array":
        module, _, name = kind.rpartition(".")
        return getattr(import_module(module), name)(*parts)
    numpy, (letters, shape, items) = import_module("numpy"), parts
    if numpy.dtype(letters).kind not in _ARRAYS:
        raise ValueError(f"an array of {letters} is no plain value")
    # with no dimension, a number of numpy's
    return numpy.array(items, letters).reshape(shape)[()]


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
