"""The side that is not trusted: runs a program, and answers questions about what it has defined.

What is said here is worth as much as the program is.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any, BinaryIO

from plain import packed, receive, send, unpacked  # pyright: ignore[reportMissingImports]


class Caught:
    """Keeps whatever is raised inside it."""

    error: BaseException | None = None

    def __enter__(self) -> Caught:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.error = error
        return True


def told(error: BaseException) -> dict[str, Any]:
    """An error for the other side."""
    with Caught() as unsaid:
        return {"raised": type(error).__name__, "message": str(error)[:500]}
    return {"raised": type(error).__name__, "message": type(unsaid.error).__name__}


def executed(code: str) -> tuple[dict[str, Any], BaseException | None]:
    """The names that a program defines as the main one, and what it raised."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    with Caught() as caught:
        exec(compile(code, "<program>", "exec"), main.__dict__)
    return main.__dict__, caught.error


def run(code: str, report: BinaryIO) -> None:
    """Run a program to its end and say how it ended."""
    _, error = executed(code)
    with Caught():
        sys.stdout.flush()
    send(report, {"raised": None} if error is None else told(error))
    os._exit(0)


def serve(code: str, asked: BinaryIO, answers: BinaryIO) -> None:
    """Run a program, name what it defines, and do with that what is asked for, until nothing is any more."""
    names, error = executed(code)
    kept: list[Any] = []

    def keep(value: Any) -> int:
        kept.append(value)
        return len(kept) - 1

    if error is not None:
        send(answers, told(error))
        os._exit(0)
    own = {name: value for name, value in names.items() if not name.startswith("__")}
    send(answers, {"names": {name: packed(value, keep) for name, value in own.items()}})
    while True:
        question = receive(asked)
        with Caught() as caught:
            words = [unpacked(word, kept.__getitem__) for word in question["words"]]
            named = {name: unpacked(word, kept.__getitem__) for name, word in question["named"].items()}
            value = _done(question["do"], kept[question["of"]], words, named)
            answer = {"value": packed(value, keep), "words": [packed(word, keep) for word in words]}
        send(answers, answer if caught.error is None else told(caught.error))


def _done(what: str, of: Any, words: list[Any], named: dict[str, Any]) -> Any:
    if what == "call":
        return of(*words, **named)
    if what == "list":
        return list(of)
    return {"get": getattr, "set": setattr, "item": lambda of, key: of[key], "len": len, "bool": bool}[what](of, *words)
