"""What an evaluation asks of a model, one request at a time, and the file that keeps the answers while it runs.

Knows neither models nor the harness.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from unmask.errors import ConfigError, ResourceError

Kind = Literal["generate", "fill", "score", "rolling"]
# a generated text; what was filled in; a log-likelihood in nats, whether the target is what greedy decoding writes, and
# of a choice among others the noised copies that were needed; a log-likelihood
Answer = str | list[float | bool] | float


@dataclass(frozen=True)
class Request:
    """One question.

    Attributes:
        kind: generate a text after the prompt, fill in what is missing between it and the target, score a target after
            it, or score the prompt itself (rolling).
        prompt: the text; with `is_chat` it went through the chat template already.
        target: the text to score, or the one behind the blank.
        settings: of the generation, as the task gives them (`until`, `max_gen_toks`, `temperature`, ...); of a blank,
            `tokens`: the fewest and the most that may be written; of a choice among others, see `told_apart`.
        greedy: whether it is also asked if the target is what greedy decoding writes.
        is_chat: whether the prompt holds the template's own special tokens, so that none are added.
        number: of the request among those that are equal.
    """

    kind: Kind
    prompt: str
    target: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    greedy: bool = False
    is_chat: bool = False
    number: int = 0

    def key(self, stamp: str) -> str:
        """A hash of the request and of `stamp`, which says everything else that the answer depends on."""
        told = json.dumps([stamp, asdict(self)], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:24]

    @property
    def seed(self) -> int:
        """A number of its own, so that an answer depends on nothing but its request."""
        told = json.dumps(asdict(self), sort_keys=True, default=str)
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:4], "big")


class Answers:
    """Answers by their request's key, in memory and in a JSONL file of each process, which grows as they come.

    A folder may hold answers of several models and settings: the keys tell them apart. What was being written when a
    process was killed is dropped.

    Attributes:
        by_key: the answers.
        run_of: by the same keys, the run that asked: a hash of all that was to be answered when it began.

    Raises:
        ConfigError: a file holds something else.
        ResourceError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None, rank: int = 0, *, fresh: bool = False) -> None:
        self.by_key: dict[str, Answer] = {}
        self.run_of: dict[str, str] = {}
        self.path = None if folder is None else folder / f"answers-{rank}.jsonl"
        if folder is None or self.path is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in sorted(folder.glob("answers-*.jsonl")):
                if not fresh:
                    self._take(old)
                elif rank == 0:
                    old.unlink()
            drop_torn_line(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def add(self, key: str, answer: Answer, run: str = "") -> None:
        """Keep an answer."""
        self.by_key[key], self.run_of[key] = answer, run
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"key": key, "answer": answer, "run": run}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def run_that_asks(self, keys: Iterable[str]) -> tuple[str, set[str]]:
        """The run that answers these keys, and which of them are its own: those that no other run has answered.

        It is an earlier one that was interrupted, if what is missing and what that one has answered is all it asked.
        """
        wanted = set(keys)
        missing = wanted - set(self.by_key)
        earlier: dict[str, set[str]] = {}
        for key in wanted - missing:
            earlier.setdefault(self.run_of[key], set()).add(key)
        for run, answered in earlier.items():
            if _run(missing | answered) == run:
                return run, missing | answered
        return _run(missing), missing

    def _take(self, path: Path) -> None:
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            try:
                found = json.loads(line)
                self.by_key[found["key"]] = found["answer"]
                self.run_of[found["key"]] = found.get("run", "")
            except (ValueError, KeyError, TypeError):
                raise ConfigError(f"{path}:{number} is no answer of an evaluation. Choose another folder.") from None


def numbered(requests: Iterable[Request]) -> list[Request]:
    """Equal requests told apart by their number, so that each is answered by itself."""
    seen: dict[str, int] = {}
    found = []
    for request in requests:
        key = request.key("")
        seen[key] = seen.get(key, -1) + 1
        found.append(request if seen[key] == 0 else Request(**{**vars(request), "number": seen[key]}))
    return found


def _run(keys: set[str]) -> str:
    return hashlib.sha256(" ".join(sorted(keys)).encode()).hexdigest()[:12]


def drop_torn_line(path: Path) -> None:
    """Cut the file behind its last line break."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _unwritable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"cannot write {path}: {error.strerror or error}. Choose another folder.")
