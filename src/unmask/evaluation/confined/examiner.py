"""The trusted side of an examination: runs tests whose subject lives in another process.

The tests see the program's functions by name. They get copies of what these return, so that the program can change
neither them nor what they compare with. What they give to a program that is no plain value it can call, or take items
from, and nothing else.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from talk import MODULES, Line, more  # pyright: ignore[reportMissingImports]


class Subject(Line):
    """The program, through the questions that it is asked."""

    ahead = 1024

    def names(self) -> dict[str, Any]:
        """What the program defines; raises what it raised."""
        names = {name: self.unpack(value) for name, value in self.hear()["names"].items()}
        # "__builtins__" would be every builtin that the tests use
        return {name: value for name, value in names.items() if not name.startswith("__")}

    def own(self, value: Any) -> dict[str, Any]:
        """What anyone can import goes by its name; of the tests' own things only functions and iterators go."""
        place = _place(value)
        if place:
            return {"name": place}
        if callable(value) or hasattr(type(value), "__next__"):
            return self.kept_as(value)
        raise TypeError(f"a {type(value).__name__} cannot be given to the program")

    def named(self, module: str, name: str) -> Any:
        """A module; nothing in it can be the subject of a test."""
        if name or module not in MODULES:
            raise ValueError(f"{module}.{name} is not for tests")
        return import_module(module)

    def done(self, what: str, of: Any, words: list[Any], named: dict[str, Any]) -> Any:
        """What the program may do with a function or an iterator of the tests'; attributes would lead everywhere."""
        if what == "call":
            return of(*words, **named)
        if what in ("iter", "more") and hasattr(type(of), "__next__"):
            return of if what == "iter" else more(of, *words)
        raise TypeError(f"a program may not ask for {what} of a {type(of).__name__}")


def _place(value: Any) -> list[str] | None:
    """Where a module, a class or a function can be imported from."""
    if isinstance(value, types.ModuleType):
        return [value.__name__, ""]
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return [module, name] if found is value else None


def examine(tests: str, subject: Subject) -> None:
    """Run tests to their end; raises what they raise.

    A name of Python's own that the program has redefined is the program's only where nothing else of it is asked for:
    then it is what is examined, and not what examines.
    """
    compiled, names = compile(tests, "<tests>", "exec", dont_inherit=True), subject.names()
    used = set(_names(compiled)) & names.keys()
    if used - vars(builtins).keys():
        names = {name: value for name, value in names.items() if name not in vars(builtins)}
    exec(compiled, names)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)
