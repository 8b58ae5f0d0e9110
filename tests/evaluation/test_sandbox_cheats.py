"""Programs that look for their tests, or speak to their examiner by hand; none passes, and none stays."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unmask.evaluation import sandbox
from unmask.evaluation.sandbox import examine, run

pytestmark = pytest.mark.usefixtures("confined")


def changed(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of what confines, with a line changed."""
    copy = folder / "confined"
    shutil.copytree(sandbox._CONFINED, copy)
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1))
    return copy


# what a program can find of its tests

HERE = "tests = 'needle-83012745'\n"
SEEKERS = {
    "frames": (
        "import sys\ndef seek():\n    frame, said = sys._getframe(), []\n"
        "    while frame:\n        said += [str(frame.f_locals), str(list(frame.f_globals.values()))]\n"
        "        frame = frame.f_back\n    return ''.join(said)"
    ),
    "objects": (
        "import gc\ndef seek():\n"
        "    return ''.join(str(o) for o in gc.get_objects() if type(o) in (dict, list, tuple))"
    ),
    "words": "import os, sys\ndef seek(): return str([sys.argv, sys.orig_argv, os.environ, sys.path])",
    "descriptors": (
        "import fcntl, os\ndef seek():\n    said = []\n    for d in range(3000):\n        try:\n"
        "            fcntl.fcntl(d, fcntl.F_SETFL, os.O_NONBLOCK)\n            said.append(os.read(d, 10000))\n"
        "        except OSError: pass\n    return str(said)"
    ),
    "memory": (
        "import ctypes, os, sys\nc = ctypes.CDLL(None)\nc.sbrk.restype = ctypes.c_void_p\nout, into = os.pipe()\n"
        "def seek():\n    said = b''\n"
        "    for middle in {c.sbrk(0), id(object()), id(sys.modules), id(bytearray(5000)), id(sys._getframe())}:\n"
        "        start = middle // 4096 - 4096\n"
        "        for page in range(start, start + 8192):\n"
        "            if c.write(into, ctypes.c_void_p(page * 4096), 4096) == 4096:\n"
        "                read = os.read(out, 4096)\n"
        "                at = read.find(b'needl' + b'e-')\n"
        "                said += read[at : at + 15] if at >= 0 else b''\n"
        "    return said.decode('latin-1')"
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", SEEKERS)
def test_a_program_does_not_find_its_tests(way: str) -> None:
    outcome = examine(SEEKERS[way], f"{HERE}assert '830127' + '45' in seek()", timeout_seconds=20)
    assert outcome.error.startswith("AssertionError"), outcome


def test_the_seekers_find_what_is_there() -> None:
    """In the memory and the frames of their own process."""
    for way in ("frames", "objects", "memory"):
        assert examine(HERE + SEEKERS[way], "assert '830127' + '45' in seek()", timeout_seconds=20).passed, way


@pytest.fixture
def many_open() -> Iterator[None]:
    """So many files that whatever is opened next has a number above 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 2000:
        pytest.skip("fewer than 2,000 files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for one in held:
        os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


OPEN = (
    "import os\ndef there(d):\n    try:\n        os.fstat(d)\n        return True\n"
    "    except OSError:\n        return False\n"
)


def test_two_pipes_are_all_that_a_program_has_open(many_open: None) -> None:
    code = f"{OPEN}found = [d for d in range(3000) if there(d)]"
    assert examine(code, "assert len(found) == 5 and found[:3] == [0, 1, 2]").passed


def test_a_verdict_with_a_high_number_is_not_forged(many_open: None) -> None:
    forge = (
        'for d in range(3, 3000):\n    if there(d):\n        os.write(d, b\'{"status": "finished"}\\n\')\nos._exit(0)'
    )
    assert examine(OPEN + forge, "assert False").status in ("failed", "exited", "crashed")


def test_an_endless_verdict_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    endless = "while True:\n            said.write(bytes(4096))\n        send(said,"
    monkeypatch.setattr(sandbox, "_CONFINED", changed(tmp_path, "__main__.py", "send(said,", endless))
    began = time.monotonic()
    assert examine("", "pass", timeout_seconds=20).status == "crashed"
    assert time.monotonic() - began < 10


def test_a_long_error_is_cut() -> None:
    outcome = examine("", "raise ValueError('\\U0001f600' * 10**6)")
    assert outcome.status == "failed" and len(outcome.error) <= 600


# what a program says by hand

BY_HAND = (
    "import json, os, sys\nask, say = [d for d in range(3, 60) if os.path.exists(f'/proc/self/fd/{d}')]\n"
    "def send(what): os.write(say, json.dumps(what).encode() + b'\\n')\n"
)
HANDS = {
    "its own builtins": (
        "send({'names': {'f': {'mine': 0}, '__builtins__': {'dict': [['abs', {'mine': 0}]]}}})\n"
        "for value in (5.0, 0.0):\n    os.read(ask, 9999)\n    send({'value': value, 'words': [None]})",
        "assert abs(f(1) - 1) < 1e-6",
    ),
    "its own abs": ("def abs(x): return 0\ndef f(x): return 5.0\nreal", "assert abs(f(1) - 1) < 1e-6"),
    "its own set": ("def set(x): return 0\ndef f(x): return [5]\nreal", "assert set(f(1)) == set([1])"),
    "a type that is equal": ("send({'names': {'f': {'unittest.mock._ANY': []}}})", "assert f == 4"),
    "a module of its choice": ("send({'names': {'f': {'name': ['unittest.mock', 'ANY']}}})", "assert f == 4"),
    "a function's globals": ("def f(h): h.__globals__['x'] = 4\nreal", "x = 5\nf(lambda: 0)\nassert x == 4"),
    "a function's code": ("def f(h): h.__code__ = (lambda: 4).__code__\nreal", "h = lambda: 5\nf(h)\nassert h() == 4"),
    "another kind of array": ("send({'names': {'f': {'array': ['O', [1], [4]]}}})", "assert f[0] == 4"),
    "an endless depth": ("send({'names': {'f': 1}}) if 0 else os.write(say, b'[' * 10**6 + b'\\n')", "assert f == 1"),
    "the tests' own function, unasked": (
        "def f(h):\n    send({'do': 'get', 'of': 0, 'words': ['__globals__'], 'named': {}})\n"
        "    return os.read(ask, 9999).decode()\nreal",
        "assert 'may not ask' not in f(lambda: 4)",
    ),
}


@pytest.mark.parametrize("trick", HANDS)
def test_what_is_said_by_hand_gains_nothing(trick: str) -> None:
    act, tests = HANDS[trick]
    outcome = examine(BY_HAND + act.removesuffix("real"), tests, timeout_seconds=5)
    assert outcome.status in ("failed", "exited"), outcome


# a machine that gives no namespaces


@pytest.fixture
def no_namespaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    begin = "    if _libc.unshare(sum(_NAMESPACES.values())) == 0:"
    copy = changed(tmp_path, "locks.py", begin, "    return []\n" + begin)
    monkeypatch.setattr(sandbox, "_CONFINED", copy)
    return copy


def test_without_namespaces_it_ends_with_its_verdict(no_namespaces: Path) -> None:
    ends = "import os, signal\nfor n in (1, 2, 13, 15): signal.signal(n, signal.SIG_IGN)\n"
    for code in ("while True: pass", "import time; time.sleep(1000)"):
        assert run(ends + code, timeout_seconds=1).status == "timeout"
        asked = f"{ends}def f():\n    os.write(1, b'')\n    {code}\n"
        assert examine(asked, "f()", timeout_seconds=1).status == "timeout"
    assert not _left_after(8, no_namespaces)


def test_without_namespaces_it_ends_with_who_started_it(no_namespaces: Path) -> None:
    code = (
        "from pathlib import Path\nfrom unmask.evaluation import sandbox\n"
        f"sandbox._CONFINED = Path({str(no_namespaces)!r})\nprint(sandbox.protections(), flush=True)\n"
        "sandbox.run('import time; time.sleep(1000)', timeout_seconds=1000)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert starter.stdout is not None and starter.stdout.readline()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and len(_there(no_namespaces)) < 3:
        time.sleep(0.02)
    time.sleep(0.2)
    begun = len(_there(no_namespaces))
    starter.kill()
    starter.wait()
    assert begun == 3 and not _left_after(8, no_namespaces)


def _left_after(seconds: float, confining: Path) -> list[str]:
    """Those still there so long after a signal that ends them at once, on a machine with other work to do."""
    deadline = time.monotonic() + seconds
    while (left := _there(confining)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _there(confining: Path) -> list[str]:
    """Processes of this copy of what confines."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(confining).encode() in place.read_bytes().split(b"\0"):
                found.append(place.parent.name)
        except OSError:
            continue
    return found
