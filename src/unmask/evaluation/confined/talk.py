"""How two processes use each other's objects: each asks, and answers what it is asked meanwhile.

Knows neither programs nor tests; what an object may be asked for is each side's own rule.
"""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO

from plain import packed, receive, send, unpacked  # pyright: ignore[reportMissingImports]

# modules that each side has of its own and that hold nothing but what computes: what tests use of a program's imports
# is what it says it is
MODULES = frozenset(
    {"bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools"}
    | {"json", "math", "numpy", "operator", "random", "re", "statistics", "string", "time", "typing"}
)


class Caught:
    """Keeps whatever is raised inside it."""

    error: BaseException | None = None

    def __enter__(self) -> Caught:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.error = error
        return True


def told(error: BaseException) -> dict[str, Any]:
    """An error for the other side: its name, and what makes the nearest of Python's own errors."""
    known = next(kind.__name__ for kind in type(error).__mro__ if vars(builtins).get(kind.__name__) is kind)
    said: dict[str, Any] = {"raised": type(error).__name__, "known": known, "message": "", "parts": []}
    with Caught():
        said["message"] = str(error)[:500]
        said["parts"] = [said["message"]]
        said["parts"] = [packed(part, _refuse) for part in error.args]
    return said


def _refuse(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} cannot be given to the other side")


def _error(said: dict[str, Any]) -> Exception:
    """The error that the other side told; one of Python's own, whatever it says."""
    kind, message = vars(builtins).get(str(said["known"])), str(said["message"])
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return RuntimeError(message)
    with Caught():
        return kind(*(unpacked(part, _nothing) for part in said["parts"]))
    return RuntimeError(message)


def _nothing(kind: str, content: Any) -> Any:
    raise ValueError(f"{kind} {content} is no plain value")


class Line:
    """One end of a conversation. `ahead`: how many items of an iterator are fetched at once at most."""

    ahead = 1

    def __init__(self, heard: BinaryIO, said: BinaryIO) -> None:
        self.heard, self.said = heard, said
        self.kept: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._remotes: dict[int, Remote] = {}

    def own(self, value: Any) -> dict[str, Any]:
        """How to speak of an object that is here and not plain. Raises TypeError: it is not for the other side."""
        raise NotImplementedError

    def named(self, module: str, name: str) -> Any:
        """What the other side speaks of by name. Raises ValueError: that is not believed."""
        raise NotImplementedError

    def done(self, what: str, of: Any, words: list[Any], named: dict[str, Any]) -> Any:
        """The result of doing something with one's own object. Raises TypeError: that may not be asked."""
        raise NotImplementedError

    def kept_as(self, value: Any) -> dict[str, Any]:
        """A reference to an object that is here; the same one each time."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.kept)
            self.kept.append(value)
        return {"mine": self._numbers[id(value)]}

    def pack(self, value: Any) -> Any:
        return packed(value, self._refer)

    def unpack(self, value: Any) -> Any:
        return unpacked(value, self._find)

    def _refer(self, value: Any) -> Any:
        return {"yours": value._Remote__number} if isinstance(value, Remote) else self.own(value)

    def _find(self, kind: str, content: Any) -> Any:
        if kind == "mine":
            return self._remotes.setdefault(int(content), Remote(self, int(content)))
        if kind == "yours":
            return self.kept[content]
        if kind == "name":
            return self.named(*map(str, content))
        raise ValueError(f'"{kind}" is no kind of value')

    def ask(self, what: str, of: int, words: tuple[Any, ...] = (), named: dict[str, Any] | None = None) -> Any:
        """The result of doing something with one of its objects; containers given to it change as there."""
        sent = [self.pack(word) for word in words]
        named_ = {name: self.pack(word) for name, word in (named or {}).items()}
        send(self.said, {"do": what, "of": of, "words": sent, "named": named_})
        answer = self.hear()
        for word, before, after in zip(words, sent, answer["words"], strict=True):
            if before != after:
                _followed(word, self.unpack(after))
        return self.unpack(answer["value"])

    def hear(self) -> dict[str, Any]:
        """The next answer; raises what it tells. What is asked before it is answered."""
        while "do" in (message := receive(self.heard)):
            self.answer(message)
        if "raised" in message:
            raise _error(message)
        return message

    def answer(self, question: dict[str, Any]) -> None:
        """Do what is asked for, and say what came of it."""
        with Caught() as caught:
            words = [self.unpack(word) for word in question["words"]]
            named = {name: self.unpack(word) for name, word in question["named"].items()}
            value = self.done(question["do"], self.kept[question["of"]], words, named)
            answer = {"value": self.pack(value), "words": [self.pack(word) for word in words]}
        send(self.said, answer if caught.error is None else told(caught.error))


def more(of: Any, most: int) -> list[Any]:
    """The next items of an iterator, and the error that ended them early."""
    items: list[Any] = []
    with Caught() as caught:
        while len(items) < most:
            items.append(next(of))
    return [items, None if caught.error is None else told(caught.error)]


def _followed(value: Any, after: Any) -> Any:
    """The value, changed in place to what it was changed to there; what cannot change is replaced."""
    if type(value) is not type(after):
        return after
    if isinstance(value, list | tuple):
        items = [_followed(old, new) for old, new in zip(value, after, strict=False)] + list(after[len(value) :])
        if isinstance(value, tuple):
            return tuple(items)
        value[:] = items
    elif isinstance(value, bytearray):
        value[:] = after
    elif isinstance(value, dict):
        items = {key: _followed(value[key], item) if key in value else item for key, item in after.items()}
        value.clear()
        value.update(items)
    elif isinstance(value, set):
        value.clear()
        value.update(after)
    elif isinstance(value, deque):
        value.clear()
        value.extend(after)
    elif type(value).__name__ == "ndarray":
        value[...] = after
    else:
        return after
    return value


class Remote:
    """An object of the other side; it is equal to itself alone."""

    def __init__(self, line: Line, number: int) -> None:
        self.__dict__.update(_Remote__line=line, _Remote__number=number, _Remote__waiting=deque(), _Remote__size=1)

    def __ask(self, what: str, *words: Any) -> Any:
        return self.__line.ask(what, self.__number, words)

    def __call__(self, *words: Any, **named: Any) -> Any:
        return self.__line.ask("call", self.__number, words, named)

    def __getattr__(self, name: str) -> Any:
        return self.__ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__ask("set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self.__ask("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__ask("put", key, value)

    def __iter__(self) -> Iterator[Any]:
        return self.__ask("iter")

    def __next__(self) -> Any:
        if not self.__waiting:
            items, ended = self.__ask("more", self.__size)
            self.__waiting.extend((item, None) for item in items)
            self.__waiting.extend([(None, ended)] if ended else [])
            self.__dict__["_Remote__size"] = min(2 * self.__size, self.__line.ahead)
        item, ended = self.__waiting.popleft()
        if ended:
            raise _error(ended)
        return item

    def __len__(self) -> int:
        return int(self.__ask("len"))

    def __bool__(self) -> bool:
        return bool(self.__ask("bool"))

    def __str__(self) -> str:
        return str(self.__ask("str"))

    def __repr__(self) -> str:
        return str(self.__ask("repr"))

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and bool(self.__ask("made", value))
