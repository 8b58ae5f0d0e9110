"""The trusted side of an examination: runs tests whose subject lives in another process.

The tests see the program's functions by name. They get copies of what these return, so that the program can change
neither them nor what they compare with.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any, BinaryIO

from plain import packed, receive, send, unpacked  # pyright: ignore[reportMissingImports]


class Subject:
    """The program, through the questions that it is asked."""

    def __init__(self, asked: BinaryIO, answers: BinaryIO) -> None:
        self.asked, self.answers = asked, answers

    def names(self) -> dict[str, Any]:
        """What the program defines; raises what it raised."""
        return {name: unpacked(value, self.remote) for name, value in self._answer()["names"].items()}

    def ask(self, what: str, of: int, words: tuple[Any, ...] = (), named: dict[str, Any] | None = None) -> Any:
        """The result of doing something with one of its objects; lists, sets and dicts given to it change as there."""
        words_, named_ = [_sent(word) for word in words], {name: _sent(word) for name, word in (named or {}).items()}
        send(self.asked, {"do": what, "of": of, "words": words_, "named": named_})
        answer = self._answer()
        for word, after in zip(words, answer["words"], strict=True):
            _follow(word, unpacked(after, self.remote))
        return unpacked(answer["value"], self.remote)

    def remote(self, number: int) -> Remote:
        """One of its objects."""
        return Remote(self, number)

    def _answer(self) -> dict[str, Any]:
        answer = receive(self.answers)
        if "raised" in answer:
            kind = getattr(builtins, str(answer["raised"]), None)
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                kind = RuntimeError
            raise kind(str(answer["message"]))
        return answer


class Remote:
    """An object of the program; it is equal to itself alone."""

    def __init__(self, subject: Subject, number: int) -> None:
        self.__dict__.update(_subject=subject, _number=number)

    def _ask(self, what: str, *words: Any) -> Any:
        return self._subject.ask(what, self._number, words)

    def __call__(self, *words: Any, **named: Any) -> Any:
        return self._subject.ask("call", self._number, words, named)

    def __getattr__(self, name: str) -> Any:
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._ask("list")))

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __bool__(self) -> bool:
        return bool(self._ask("bool"))


def _sent(value: Any) -> Any:
    if isinstance(value, Remote):
        return {"object": value._number}
    return packed(value, _refuse)


def _refuse(value: Any) -> int:
    if isinstance(value, Remote):
        return value._number
    raise TypeError(f"a {type(value).__name__} cannot be given to the program")


def _follow(value: Any, after: Any) -> None:
    if type(value) is type(after) and value != after:
        if isinstance(value, list):
            value[:] = after
        elif isinstance(value, set | dict):
            value.clear()
            value.update(after)


def examine(tests: str, subject: Subject) -> None:
    """Run tests to their end; raises what they raise."""
    exec(compile(tests, "<tests>", "exec"), {"__name__": "__main__", **subject.names()})
