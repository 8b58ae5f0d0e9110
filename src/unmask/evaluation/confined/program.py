"""The side that is not trusted: runs a program, and answers questions about what it has defined.

What is said here is worth as much as the program is.
"""

from __future__ import annotations

import operator
import os
import sys
import types
from importlib import import_module
from typing import Any, BinaryIO

from plain import receive, send  # pyright: ignore[reportMissingImports]
from talk import MODULES, Caught, Line, more, told  # pyright: ignore[reportMissingImports]

_ACTS = {
    **{"get": getattr, "set": setattr, "item": operator.getitem, "put": operator.setitem, "len": len, "bool": bool},
    **{"iter": iter, "more": more, "str": str, "repr": repr, "made": lambda of, value: isinstance(value, of)},
}


def _executed(code: str, names: dict[str, Any]) -> BaseException | None:
    """Put the names that a program defines among others; what it raised."""
    with Caught() as caught:
        exec(compile(code, "<program>", "exec", dont_inherit=True), names)
    return caught.error


def run(code: str, report: BinaryIO) -> None:
    """Run a program, as the main one, to its end and say how it ended."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    error = _executed(code, main.__dict__)
    with Caught():
        sys.stdout.flush()
    send(report, {"raised": None} if error is None else told(error))
    os._exit(0)


class Served(Line):
    """The tests, through what they ask for."""

    def own(self, value: Any) -> dict[str, Any]:
        known = isinstance(value, types.ModuleType) and value.__name__ in MODULES
        return {"name": [value.__name__, ""]} if known else self.kept_as(value)

    def named(self, module: str, name: str) -> Any:
        found = import_module(module)
        for part in name.split(".") if name else ():
            found = getattr(found, part)
        return found

    def done(self, what: str, of: Any, words: list[Any], named: dict[str, Any]) -> Any:
        return of(*words, **named) if what == "call" else _ACTS[what](of, *words)


def serve(code: str, asked: BinaryIO, answers: BinaryIO) -> None:
    """Run a program, name what it defines, and do with that what is asked for, until nothing is any more.

    It is not the main one, and nobody types: as the scorer of HumanEval has it.
    """
    line = Served(asked, answers)
    sys.stdin = sys.stdout
    names: dict[str, Any] = {}
    error = _executed(code, names)
    if error is not None:
        send(answers, told(error))
        os._exit(0)
    own = {name: value for name, value in names.items() if not name.startswith("__")}
    send(answers, {"names": {name: line.pack(value) for name, value in own.items()}})
    while True:
        line.answer(receive(asked))
