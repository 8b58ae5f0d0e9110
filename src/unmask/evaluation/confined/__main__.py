"""Runs a program that nobody trusts: `python -I -S FOLDER VERDICT_DESCRIPTOR`, the task as JSON on standard input.

Three processes: this one waits; its child, alone in its namespaces, examines and gives the verdict; the child's child
is the program, which has no descriptor of the verdict's. All that they need is imported before the rights are gone.
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
from plain import send  # pyright: ignore[reportMissingImports]


def main() -> None:
    verdict, task = int(sys.argv[1]), json.load(sys.stdin)
    locks.die_with_parent()
    spaces = locks.leave_namespaces()
    child = os.fork()
    if child:
        os.close(verdict)
        os.waitpid(child, 0)
        os._exit(0)
    locks.die_with_parent()
    judge(task, verdict, spaces)
    os._exit(0)


def judge(task: dict[str, Any], verdict: int, spaces: list[str]) -> None:
    """Start the program, and say how it did."""
    asked, ask = os.pipe()
    answers, answer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(asked, 3 + 10)
        os.dup2(answer, 3 + 11)
        os.closerange(3, 13)
        os.closerange(15, 1024)
        start(task)
    os.close(asked)
    os.close(answer)
    with os.fdopen(verdict, "wb") as said, os.fdopen(ask, "wb") as questions, os.fdopen(answers, "rb") as heard:
        found = examined(task, questions, heard) if task["tests"] is not None else waited(child, heard)
        send(said, {"namespaces": spaces, **found})


def start(task: dict[str, Any]) -> None:
    """The program's process, from here on without rights; an exit of 99 says that they could not be taken away."""
    sys.path[:] = [place for place in sys.path if not place.endswith("confined")]
    if not locked(task):
        os._exit(99)
    questions, answers = os.fdopen(13, "rb"), os.fdopen(14, "wb")
    send(answers, {"locked": True})
    if task["tests"] is None:
        program.run(task["code"], answers)
    program.serve(task["code"], questions, answers)


def locked(task: dict[str, Any]) -> bool:
    """Whether this process has lost its rights."""
    locks.limit(task["seconds"], task["memory_bytes"])
    return locks.hide_files() and locks.refuse_calls()


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


def examined(task: dict[str, Any], questions: Any, heard: Any) -> dict[str, Any]:
    """How a program did in tests, which are confined too."""
    first = heard.readline(1 << 10)
    if b"locked" not in first or not locked(task):
        return {"status": "unprotected"}
    with program.Caught() as caught:
        examiner.examine(task["tests"], examiner.Subject(questions, heard))
    if caught.error is None:
        return _ended(None, "")
    if isinstance(caught.error, EOFError | BrokenPipeError):
        return {"status": "exited", "error": "the program ended before its tests"}
    error = program.told(caught.error)
    return _ended(error["raised"], error["message"])


def _ended(raised: str | None, message: str) -> dict[str, Any]:
    if raised is None:
        return {"status": "finished"}
    status = {"MemoryError": "memory", "SystemExit": "exited"}.get(str(raised), "failed")
    return {"status": status, "error": f"{raised}: {message}"[:600]}


if __name__ == "__main__":
    main()
