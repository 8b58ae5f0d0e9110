"""Runs a program that nobody trusts: `python -I -S FOLDER VERDICT TESTS`.

The program and its limits are JSON on standard input; its tests, if there are any, text on the descriptor TESTS.

Three processes: this one waits; its child, alone in its namespaces, examines and gives the verdict; the child's child
is the program. It is there before the tests are read, and has neither their descriptor nor the verdict's, so that
nothing of either has ever been in its memory. All that they need is imported before the rights are gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import examiner  # pyright: ignore[reportMissingImports]
import locks  # pyright: ignore[reportMissingImports]
import program  # pyright: ignore[reportMissingImports]
from packages import Packages  # pyright: ignore[reportMissingImports]
from plain import send  # pyright: ignore[reportMissingImports]
from talk import Caught, told  # pyright: ignore[reportMissingImports]


def main() -> None:
    verdict, tests, task = int(sys.argv[1]), int(sys.argv[2]), json.load(sys.stdin)
    locks.die_with_parent()
    spaces, parent = locks.leave_namespaces(), os.getpid()
    child = os.fork()
    if child:
        os.close(verdict)
        os.close(tests)
        os.waitpid(child, 0)
        os._exit(0)
    # alone among its processes, it sees no parent
    locks.die_with_parent(0 if "process" in spaces else parent)
    judge(task, verdict, tests, spaces)
    os._exit(0)


def judge(task: dict[str, Any], verdict: int, tests: int, spaces: list[str]) -> None:
    """Start the program, and say how it did."""
    asked, ask = os.pipe()
    answers, answer = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if not child:
        os.close(verdict)
        os.close(tests)
        locks.die_with_parent(parent)
        if locks.close_all_but((0, 1, 2, asked, answer)):
            start(task, asked, answer)
        os._exit(99)
    os.close(asked)
    os.close(answer)
    with os.fdopen(verdict, "wb") as said, os.fdopen(ask, "wb") as questions, os.fdopen(answers, "rb") as heard:
        found = examined(task, tests, questions, heard) if task["examined"] else waited(child, heard)
        send(said, {"namespaces": spaces, **found})


def start(task: dict[str, Any], asked: int, answer: int) -> None:
    """The program's process, from here on without rights; it returns if they could not be taken away."""
    sys.path[:] = [place for place in sys.path if not place.endswith("confined")]
    if not locked(task):
        return
    questions, answers = os.fdopen(asked, "rb"), os.fdopen(answer, "wb")
    send(answers, {"locked": True})
    if task["examined"]:
        program.serve(task["code"], questions, answers)
    program.run(task["code"], answers)


def locked(task: dict[str, Any]) -> bool:
    """Whether this process has lost its rights."""
    Packages(task["packages"]).offer()
    locks.limit(task["seconds"], task["memory_bytes"])
    return locks.hide_files(task["folders"]) and locks.refuse_calls()


def waited(child: int, heard: Any) -> dict[str, Any]:
    """How a program ended that ran alone, by its own word and by the kernel's."""
    word = [json.loads(line) for line in heard.read(1 << 16).splitlines()[:2] if line.endswith(b"}")]
    _, status = os.waitpid(child, 0)
    if not word:
        return {"status": "unprotected"}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {"status": "timeout" if number == signal.SIGXCPU else "crashed", "error": signal.Signals(number).name}
    if len(word) < 2:
        return {"status": "exited", "error": f"it left with {os.WEXITSTATUS(status)} before its end"}
    return _ended(word[1].get("raised"), str(word[1].get("message", "")))


def examined(task: dict[str, Any], tests: int, questions: Any, heard: Any) -> dict[str, Any]:
    """How a program did in tests, which are confined too."""
    with os.fdopen(tests, "rb") as file:
        text = file.read().decode("utf-8", "surrogatepass")
    first = heard.readline(1 << 10)
    if b"locked" not in first or not locked(task):
        return {"status": "unprotected"}
    with Caught() as caught:
        examiner.examine(text, examiner.Subject(heard, questions))
    if caught.error is None:
        return _ended(None, "")
    if isinstance(caught.error, EOFError | BrokenPipeError):
        return {"status": "exited", "error": "the program ended before its tests"}
    error = told(caught.error)
    return _ended(error["raised"], error["message"])


def _ended(raised: str | None, message: str) -> dict[str, Any]:
    if raised is None:
        return {"status": "finished"}
    status = {"MemoryError": "memory", "SystemExit": "exited"}.get(str(raised), "failed")
    return {"status": status, "error": f"{raised}: {message}"[:600]}


if __name__ == "__main__":
    main()
