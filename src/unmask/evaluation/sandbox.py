"""Runs programs that a model has written, where they can do nothing but compute: Linux, as any user, no setup.

What is taken away from them is in `confined/locks.py`; here is who starts them, waits, and stops them. Knows neither
models nor tasks.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from unmask.errors import ResourceError

Status = Literal["finished", "failed", "exited", "crashed", "timeout", "memory", "output"]
TIMEOUT_SECONDS, MEMORY_BYTES, MOST_OUTPUT = 10.0, 1 << 30, 1 << 16
_MOST_VERDICT = 1 << 14
# what tests and programs may import beside the standard library, where it is installed
_PACKAGES = ("numpy",)
# numpy would start threads, which are refused
_ENVIRONMENT = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
_CONFINED = Path(__file__).with_name("confined")


@dataclass(frozen=True)
class Outcome:
    """How a program did.

    Attributes:
        status: finished (it, or its tests, ran to the end), failed (something was raised), exited (it left early, with
            whatever status), crashed (killed by a signal), timeout, memory, output (it printed too much).
        error: what was raised, or why it ended.
        output: what it printed; of an examination, nothing, and as much may be printed as there is time for.
        seconds: real time, the start of Python included.
    """

    status: Status
    error: str
    output: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether all of it ran to the end."""
        return self.status == "finished"


def run(code: str, *, timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES) -> Outcome:
    """Run a program.

    Whether it finished is the program's own word. A verdict on what it computes is `examine`'s.

    Args:
        code: of Python; its standard library can be imported, and numpy where that is installed.
        timeout_seconds: after which it is stopped.
        memory_bytes: of address space.

    Raises:
        ResourceError: this machine cannot confine it.
    """
    return _run(code, None, timeout_seconds, memory_bytes)


def examine(
    code: str, tests: str, *, timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES
) -> Outcome:
    """Run tests of a program, which lives in another process, so that it cannot change the verdict.

    Args:
        code: as in `run`.
        tests: a program that raises if the other is wrong. It sees the other's names, calls its functions with plain
            values, functions and iterators, and gets plain values back; any other object can be used through its
            attributes, items and calls, and is equal to itself alone.
        timeout_seconds, memory_bytes: as in `run`; both processes have so much memory.

    Raises:
        ResourceError: this machine cannot confine it.
    """
    return _run(code, tests, timeout_seconds, memory_bytes)


@cache
def protections() -> str:
    """One sentence: what keeps programs in on this machine.

    Raises:
        ResourceError: too little.
    """
    found = _verdict("", None, TIMEOUT_SECONDS, MEMORY_BYTES)[0]
    spaces = found.get("namespaces", ())
    own = f", in {', '.join(spaces)} namespaces of its own" if spaces else ""
    return (
        "Programs run in a process that can open no file but Python's and the system's libraries (Landlock), and can "
        f"reach no network, start or signal no process (seccomp){own}, with limits of time, memory and output."
    )


def missing(packages: Iterable[str]) -> list[str]:
    """Those that neither programs nor tests can import.

    Raises:
        ResourceError: this machine cannot confine programs.
    """
    outside = [name for name in packages if name not in sys.stdlib_module_names]
    return [name for name in outside if not run(f"import {name}").passed]


def _run(code: str, tests: str | None, timeout_seconds: float, memory_bytes: int) -> Outcome:
    protections()
    began = time.perf_counter()
    found, output = _verdict(code, tests, timeout_seconds, memory_bytes)
    return Outcome(found["status"], found.get("error", ""), output, time.perf_counter() - began)


def _verdict(code: str, tests: str | None, timeout_seconds: float, memory_bytes: int) -> tuple[dict[str, Any], str]:
    """What the confined processes say, and what the program printed."""
    if sys.platform != "linux":
        raise _unprotected(f"{sys.platform} has no Landlock and no seccomp")
    folders = _packages()
    task = {
        **{"code": code, "examined": tests is not None, "packages": folders},
        **{"folders": [*folders.values(), *(f"{folder}.libs" for folder in folders.values())]},
        **{"seconds": math.ceil(timeout_seconds) + 1, "memory_bytes": memory_bytes},
    }
    (read, write), (asked, ask) = os.pipe(), os.pipe()
    with os.fdopen(read, "rb") as verdict, os.fdopen(ask, "wb") as questions:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CONFINED), str(write), str(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if tests is None else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
            pass_fds=(write, asked),
            start_new_session=True,
        )
        os.close(write)
        os.close(asked)
        try:
            _tell(process.stdin, json.dumps(task).encode())
            _tell(questions, (tests or "").encode("utf-8", "surrogatepass"))
            said, output, stopped = _listen(process, verdict, timeout_seconds)
        finally:
            _kill(process)
    if stopped:
        return {"status": stopped}, output
    try:
        found = json.loads(said)
    except ValueError:
        return {"status": "crashed", "error": "it took its examiner with it"}, output
    if found.get("status") not in get_args(Status):
        raise _unprotected("this kernel gives no Landlock (Linux 5.13 or newer), or no seccomp")
    return found, output


@cache
def _packages() -> dict[str, str]:
    """Folders of what can be imported beside the standard library."""
    found = {name: find_spec(name) for name in _PACKAGES}
    return {name: str(Path(spec.origin).parent) for name, spec in found.items() if spec and spec.origin}


def _tell(stream: Any, what: bytes) -> None:
    """Write all of it, and close; whoever hears nothing has ended."""
    with suppress(BrokenPipeError), stream:
        stream.write(what)


def _listen(process: subprocess.Popen[bytes], verdict: Any, timeout_seconds: float) -> tuple[bytes, str, Status | None]:
    """The verdict, the output, and why it was stopped if it was."""
    deadline, heard = time.monotonic() + timeout_seconds, {verdict: b""}
    if process.stdout is not None:
        heard[process.stdout] = b""
    stopped: Status | None = None
    with selectors.DefaultSelector() as selector:
        for stream in heard:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and stopped is None:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                got = os.read(key.fd, 1 << 16)
                heard[key.fileobj] += got  # type: ignore[index]
                if not got:
                    selector.unregister(key.fileobj)
            if len(heard.get(process.stdout, b"")) > MOST_OUTPUT:
                stopped = "output"
            elif len(heard[verdict]) > _MOST_VERDICT:
                stopped = "crashed"
            elif not ready:
                stopped = "timeout"
    return heard[verdict], heard.get(process.stdout, b"")[:MOST_OUTPUT].decode("utf-8", "replace"), stopped


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it, whatever it has started, and wait for that."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _unprotected(why: str) -> ResourceError:
    return ResourceError(
        f"programs that a model has written are not run here: {why}, so that they could read files or reach the "
        "network. Run this evaluation on another machine."
    )
