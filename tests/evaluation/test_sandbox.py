"""Programs that try to get out, or to be judged better than they are; each is contained."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from unmask.errors import ResourceError
from unmask.evaluation import sandbox
from unmask.evaluation.sandbox import examine, run

SECRET = "unmask-secret-5c1f"


pytestmark = pytest.mark.usefixtures("confined")


def contained(code: str, error: str = "PermissionError") -> None:
    """The program is refused something, and says so; nothing of what it wanted happens."""
    outcome = run(code, timeout_seconds=8)
    assert outcome.status == "failed" and error in outcome.error, outcome


def test_a_program_that_computes_runs() -> None:
    code = "import dataclasses, json, re, decimal, random, hashlib\nprint(sum(range(10)), json.dumps([1]))"
    outcome = run(code)
    assert outcome.passed and outcome.output == "45 [1]\n"


def test_what_it_raises_is_told() -> None:
    assert run("1/0").error == "ZeroDivisionError: division by zero"
    assert run("def f(:").error.startswith("SyntaxError")


def test_one_sentence_says_what_protects() -> None:
    said = sandbox.protections()
    assert said.count(". ") == 0 and "Landlock" in said and "seccomp" in said


# files


def test_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    contained(f"print(open({str(tmp_path / 'secret')!r}).read())")
    contained("print(open('/etc/passwd').read())")


def test_folders_are_not_listed() -> None:
    contained("import os; print(os.listdir('/'))")
    contained("import os; print(os.listdir(os.path.expanduser('~')))", "Error")


def test_files_are_not_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    contained(f"open({str(tmp_path / 'made')!r}, 'w').write('x')")
    contained(f"import os; os.open({str(tmp_path / 'made')!r}, os.O_CREAT | os.O_WRONLY)")
    contained(f"import os; os.mkdir({str(tmp_path / 'made')!r})")
    assert list(tmp_path.iterdir()) == []


def test_files_are_not_removed_renamed_linked_or_changed(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_text("whole")
    file.chmod(0o666)
    tmp_path.chmod(0o777)
    acts = ("unlink(p)", "rename(p, p + '2')", "symlink(p, p + '2')", "chmod(p, 0)", "truncate(p, 0)")
    for act in acts:
        contained(f"import os; p = {str(file)!r}; os.{act}")
    assert [file.read_text(), oct(file.stat().st_mode)[-3:], len(list(tmp_path.iterdir()))] == ["whole", "666", 1]


def test_no_memory_file_is_made() -> None:
    contained("import os; os.memfd_create('x')")


def test_another_spelling_is_no_way_out() -> None:
    assert run("import\tos\nprint(os\t.\tsystem('id'))").output in ("-1\n", "32512\n")
    contained("__builtins__['op' + 'en']('/etc/passwd')")
    contained("getattr(__import__('i' 'o'), 'open')('/etc/passwd')")
    loader = "next(c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'FileLoader')"
    contained(f"{loader}('x', '/etc/passwd').get_data('/etc/passwd')")


def test_machine_code_is_no_way_out(tmp_path: Path) -> None:
    code = (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True)\n"
        f"f = c.open({str(tmp_path / 'made').encode()!r}, 0o101, 0o644)\n"
        "s = c.socket(2, 1, 0)\n"
        "u = c.syscall(56, 17, 0, 0, 0, 0)\n"
        "p = c.ptrace(16, c.getppid(), 0, 0)\n"
        "print(f, s, u, p)"
    )
    assert run(code).output == "-1 -1 -1 -1\n"
    assert list(tmp_path.iterdir()) == []


# the machine around it


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    assert SECRET not in run("import os; print(dict(os.environ))").output
    contained("print(open(f'/proc/{__import__(\"os\").getppid()}/environ').read())")
    contained("print(open('/proc/self/environ').read())")


def test_the_memory_of_others_is_closed() -> None:
    for place in ("/proc/self/mem", "/proc/1/mem", f"/proc/{os.getpid()}/mem", "/dev/mem", "/proc/self/maps"):
        outcome = run(f"open({place!r}, 'rb').read(8)")
        assert outcome.status == "failed" and "Error" in outcome.error


def test_no_network() -> None:
    contained("import socket; socket.socket()")
    contained("import socket; socket.socketpair()")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        contained(
            f"import urllib.request as u; u.urlopen('http://127.0.0.1:{server.getsockname()[1]}', timeout=2)", "Error"
        )
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_processes_no_bombs_and_no_threads() -> None:
    contained("import os\nwhile True: os.fork()")
    contained("import subprocess; subprocess.run(['/bin/true'])", "Error")
    contained("import os; os.execv('/bin/sh', ['sh', '-c', 'true'])")
    contained("import os; os.posix_spawn('/bin/true', ['true'], {})", "Error")
    contained("import threading; threading.Thread(target=print).start()", "RuntimeError")
    contained("import multiprocessing as m; m.Process(target=print).start()", "Error")


def test_no_signals_to_others() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        for act in (f"os.kill({os.getpid()}, 10)", "os.kill(os.getppid(), 10)", "os.killpg(0, 9)", "os.kill(-1, 9)"):
            contained(f"import os; {act}")
        asked = f"import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, {os.getpid()})"
        contained(asked)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == []


def test_limits_are_not_raised() -> None:
    contained("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "Error")
    contained("import os; os.setpriority(0, 0, -5)")


def test_nothing_is_mounted_and_no_namespace_entered() -> None:
    calls = "c.unshare(0x10000000), c.mount(b'x', b'/', b'tmpfs', 0, 0), c.chroot(b'/')"
    assert run(f"import ctypes; c = ctypes.CDLL(None)\nprint({calls})").output == "-1 -1 -1\n"


# time, memory, output


def test_endless_work_is_stopped() -> None:
    began = time.monotonic()
    assert run("while True: pass", timeout_seconds=0.7).status == "timeout"
    assert run("import time; time.sleep(1000)", timeout_seconds=1).status == "timeout"
    assert (
        run("import signal\nfor n in (2, 15, 24): signal.signal(n, print)\nwhile True: pass", timeout_seconds=1).status
        == "timeout"
    )
    assert run("print(9**9**9)", timeout_seconds=1).status == "timeout"
    assert time.monotonic() - began < 8


def test_memory_is_bounded() -> None:
    assert run("x = bytearray(10**10)").status == "memory"
    assert run("x = []\nwhile True: x.append('a' * 10**6)", memory_bytes=1 << 28).status == "memory"


def test_output_is_bounded() -> None:
    outcome = run("while True: print('x' * 1000)")
    assert outcome.status == "output" and len(outcome.output) <= sandbox.MOST_OUTPUT


def test_nothing_outlives_the_program() -> None:
    mark = f"outlives-{os.getpid()}"
    code = f"import os, time\nmark = {mark!r}\ntry:\n    os.setsid()\nexcept OSError: pass\ntime.sleep(100)"
    run(code, timeout_seconds=1)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline and _confined_processes():
        time.sleep(0.05)
    assert not _confined_processes()


def _confined_processes() -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        parent = place.parent / "status"
        if str(sandbox._CONFINED).encode() in words and f"PPid:\t{os.getpid()}" in parent.read_text():
            found.append(place.parent.name)
    return found


def test_they_die_with_who_started_them(tmp_path: Path) -> None:
    code = "from unmask.evaluation.sandbox import run\nprint('begun', flush=True)\nrun('while True: pass')"
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert starter.stdout is not None and starter.stdout.readline() == b"begun\n"
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline and not (children := _children(starter.pid)):
        time.sleep(0.02)
    starter.kill()
    starter.wait()
    while time.monotonic() < deadline and any(Path(f"/proc/{child}").exists() for child in children):
        time.sleep(0.02)
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)


def _children(pid: int) -> list[int]:
    """All descendants."""
    own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return own + [further for child in own for further in _children(child)]


# the verdict

TESTS = "assert double(2) == 4\nassert double([1]) == [1, 1]"


WRONG = "\ndef double(x): return 0"
EQUAL = "class Same(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
EVERYWHERE = "import os\nfor d in range(40):\n    try: os.{}\n    except OSError: pass"
SPIES = "import gc\nfor f in gc.get_objects():\n    if hasattr(f, '__code__'): f.__code__ = (lambda *_: None).__code__"
FORGERIES = {
    "wrong": "def double(x): return x + 2",
    "leaves in a test": "import sys\ndef double(x): sys.exit(0)",
    "leaves at once": "import os\nos._exit(0)" + WRONG,
    "leaves hard in a test": "import os\ndef double(x): os._exit(0)",
    "leaves politely": "raise SystemExit(0)",
    "equal to anything": EQUAL.replace("(int)", "").replace("int.", "object.") + "def double(x): return Same()",
    "a number that is equal to anything": EQUAL + "def double(x): return Same(5)",
    "no assertions": "import builtins\nbuiltins.AssertionError = ZeroDivisionError" + WRONG,
    "patches the examiner": "import sys\nfor m in list(sys.modules.values()): m.examine = m.judge = print" + WRONG,
    "patches every function": SPIES + WRONG,
    "writes the verdict": EVERYWHERE.format('write(d, b\'{"status": "finished"}\\n\')') + WRONG,
    "closes the channels": EVERYWHERE.format("close(d)") + WRONG,
    "never ends": "def double(x):\n    while True: pass",
}


def test_a_right_program_passes() -> None:
    assert examine("def double(x): return x * 2", TESTS).passed


@pytest.mark.parametrize("trick", FORGERIES)
def test_the_verdict_cannot_be_forged(trick: str) -> None:
    outcome = examine(FORGERIES[trick], TESTS, timeout_seconds=2)
    assert not outcome.passed, outcome


def test_tests_see_changes_objects_and_errors() -> None:
    code = (
        "class Node:\n    def __init__(self, value): self.value, self.next = value, None\n"
        "def last(node):\n    while node.next: node = node.next\n    return node.value\n"
        "def push(items, seen): items.append(1); seen.add(2); return None\n"
        "def fail(): raise ValueError('so')\n"
        "def letters(): yield from 'ab'\n"
    )
    tests = (
        "n = Node(1); n.next = Node(7)\nassert last(n) == 7 and n.next.value == 7 and n.next\n"
        "items, seen = [0], set()\nassert push(items, seen) is None and items == [0, 1] and seen == {2}\n"
        "try:\n    fail()\nexcept ValueError as error:\n    assert str(error) == 'so'\nelse:\n    assert False\n"
        "assert list(letters()) == ['a', 'b']\n"
    )
    outcome = examine(code, tests)
    assert outcome.passed, outcome


def test_values_arrive_as_they_were() -> None:
    values = (
        "[None, True, -3, 2**80, 1.5, float('inf'), 2j, 'é\\ud800', b'x', (1, (2,)), [], {1, 2}, frozenset({3}), "
        "int, {'a': [1], (1, 2): {}}]"
    )
    code, tests = f"def make(): return {values}\ndef same(x): return x", f"assert make() == {values} == same({values})"
    assert examine(code, f"{tests}\nassert [type(v) for v in make()] == [type(v) for v in {values}]").passed


def test_programs_can_be_run_side_by_side() -> None:
    found: list[str] = []
    several = [threading.Thread(target=lambda n=n: found.append(run(f"print({n})").output)) for n in range(3)]
    for one in several:
        one.start()
    for one in several:
        one.join()
    assert sorted(found) == ["0\n", "1\n", "2\n"]


@pytest.mark.parametrize("missing", ["hide_files", "refuse_calls"])
def test_without_protection_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str) -> None:
    weak = tmp_path / "confined"
    shutil.copytree(sandbox._CONFINED, weak)
    locks = weak / "locks.py"
    locks.write_text(re.sub(rf"(def {missing}\(.*\) -> bool:)", r"\1\n    return False", locks.read_text(), count=1))
    monkeypatch.setattr(sandbox, "_CONFINED", weak)
    sandbox.protections.cache_clear()
    for call in (lambda: run("1"), lambda: examine("", "1"), sandbox.protections):
        with pytest.raises(ResourceError, match="are not run here: this kernel gives no Landlock"):
            call()
    monkeypatch.undo()
    sandbox.protections.cache_clear()
