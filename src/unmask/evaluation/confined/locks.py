"""Takes rights away from the process that calls it, for good: by namespaces, Landlock and seccomp, as a plain user.

Knows what a Python that only computes needs of Linux, and nothing of what it computes.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sysconfig
from collections.abc import Iterable
from itertools import pairwise

_libc = ctypes.CDLL(None, use_errno=True)

# prctl(2), unshare(2): names as in Linux's headers
_PDEATHSIG, _NO_NEW_PRIVS, _SECCOMP, _FILTER = 1, 38, 22, 2
_NAMESPACES = {"user": 0x10000000, "network": 0x40000000, "process": 0x20000000, "mount": 0x00020000, "ipc": 0x08000000}

# close_range(2), landlock(7): the same numbers on every machine
_CLOSE_RANGE, _LAST_DESCRIPTOR = 436, (1 << 32) - 1
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _PATH_BENEATH = 444, 445, 446, 1
_EXECUTE, _READ_FILE, _READ_DIR = 1, 4, 8
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")

# seccomp(2): the system calls that are left, x86_64 and aarch64; -1: not there
_ALLOWED = {
    **{"read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, -1), "fstat": (5, 80), "lstat": (6, -1)},
    **{"poll": (7, -1), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215)},
    **{"brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139)},
    **{"pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "access": (21, -1), "select": (23, -1)},
    **{"sched_yield": (24, 124), "mremap": (25, 216), "mincore": (27, 232), "madvise": (28, 233)},
    **{"dup": (32, 23), "dup2": (33, -1), "nanosleep": (35, 101), "getitimer": (36, 102), "setitimer": (38, 103)},
    **{"getpid": (39, 172), "exit": (60, 93), "uname": (63, 160), "getcwd": (79, 17), "readlink": (89, -1)},
    **{"gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179)},
    **{"times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175)},
    **{"getegid": (108, 177), "getppid": (110, 173), "sigaltstack": (131, 132), "gettid": (186, 178)},
    **{"time": (201, -1), "futex": (202, 98), "sched_getaffinity": (204, 123), "getdents64": (217, 61)},
    **{"restart_syscall": (219, 128), "fadvise64": (221, 223), "clock_gettime": (228, 113)},
    **{"clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94)},
    **{"epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "newfstatat": (262, 79), "readlinkat": (267, 78)},
    **{"faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73), "epoll_create1": (291, 20)},
    **{"dup3": (292, 24), "pipe2": (293, 59), "getcpu": (309, 168), "getrandom": (318, 278)},
    **{"membarrier": (324, 283), "statx": (332, 291), "rseq": (334, 293), "faccessat2": (439, 439)},
}
# the same for those whose arguments matter
_OPEN, _OPENAT, _IOCTL, _FCNTL, _PRLIMIT = (2, -1), (257, 56), (16, 29), (72, 25), (302, 261)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TERMINAL_ASKED, _CLOSE_ON_EXEC, _KEEP_ON_EXEC = 0x5401, 0x5451, 0x5450
# dup, dup with close-on-exec, and the flags of a descriptor; not who gets its signals
_DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 1030)
_X32 = 0x40000000
# what a filter answers: go on, an error, death
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000


def die_with_parent(parent: int | None = None) -> None:
    """End when the parent ends; at once if that is another by now than the one given."""
    _libc.prctl(_PDEATHSIG, 9, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def close_all_but(kept: Iterable[int]) -> bool:
    """Close every other descriptor, whatever its number; whether it could be."""
    edges = [-1, *sorted(kept), _LAST_DESCRIPTOR + 1]
    gaps = [(low + 1, high - 1) for low, high in pairwise(edges) if high - low > 1]
    return all(_libc.syscall(_CLOSE_RANGE, *map(ctypes.c_uint, gap), 0) == 0 for gap in gaps)


def leave_namespaces() -> list[str]:
    """Leave the network, the processes, mounts and users of the machine where that is allowed; which it was.

    Of processes, it is the next child that is alone.
    """
    if _libc.unshare(sum(_NAMESPACES.values())) == 0:
        return list(_NAMESPACES)
    return ["network"] if _libc.unshare(_NAMESPACES["network"]) == 0 else []


def limit(seconds: int, memory_bytes: int) -> None:
    """Bound processor seconds and memory; no file grows, no process is added, nothing is dumped."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in limits.items():
        hard = resource.getrlimit(which)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (least, least))


def hide_files(folders: Iterable[str]) -> bool:
    """Let no file be opened but those of Python's own folder, the system's libraries and these folders, which are only
    read; whether it could be."""
    _libc.syscall.restype = ctypes.c_long
    version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1 or _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    rights = _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]
    # from version 4 on, TCP; from 6 on, abstract sockets and signals to processes outside
    wide = struct.pack("=QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    known = wide[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = _libc.syscall(_CREATE_RULESET, known, ctypes.c_size_t(len(known)), 0)
    if rules < 0:
        return False
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *_LIBRARIES, *folders}:
        if os.path.isdir(folder):
            place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            beneath = struct.pack("=Qi", _EXECUTE | _READ_FILE | _READ_DIR, place)
            _libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, beneath, 0)
            os.close(place)
    done = _libc.syscall(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return done


def refuse_calls() -> bool:
    """Let the kernel refuse whatever a program that computes does not need; whether it could be."""
    if os.uname().machine not in _MACHINES or _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    machine, architecture = _MACHINES[os.uname().machine]
    program = _filter(machine, architecture)
    kept = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
    return _libc.prctl(_SECCOMP, _FILTER, described, 0, 0) == 0


def _filter(machine: int, architecture: int) -> bytes:
    """The rules as the kernel's little machine reads them: load a word, compare, jump, answer."""
    word, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06

    def argument(index: int, high: int = 0) -> int:
        return 16 + 8 * index + 4 * high

    def line(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, true, false, value)

    def one(call: tuple[int, int], *then: bytes) -> bytes:
        """If it is this call, these lines, which end in an answer."""
        return b"" if call[machine] < 0 else line(equal, call[machine], 0, len(then)) + b"".join(then)

    def only(index: int, values: tuple[int, ...]) -> list[bytes]:
        tests = [line(equal, value, len(values) - place) for place, value in enumerate(values)]
        return [line(word, argument(index)), *tests, line(answer, _REFUSE), line(answer, _ALLOW)]

    def without(index: int, bits: int) -> list[bytes]:
        tests = [line(word, argument(index)), line(any_bit, bits, 1)]
        return [*tests, line(answer, _ALLOW), line(answer, _REFUSE)]

    unset = [line(word, argument(2)), line(equal, 0, 0, 3), line(word, argument(2, 1)), line(equal, 0, 0, 1)]
    return b"".join(
        [
            line(word, 4) + line(equal, architecture, 1) + line(answer, _KILL),
            line(word, 0) + line(at_least, _X32, 0, 1) + line(answer, _KILL),
            one(_OPEN, *without(1, _WRITING)),
            one(_OPENAT, *without(2, _WRITING)),
            one(_IOCTL, *only(1, (_TERMINAL_ASKED, _CLOSE_ON_EXEC, _KEEP_ON_EXEC))),
            one(_FCNTL, *only(1, _DESCRIPTOR_COMMANDS)),
            # limits may be read, not set
            one(_PRLIMIT, *unset, line(answer, _ALLOW), line(answer, _REFUSE)),
            *(one(call, line(answer, _ALLOW)) for call in _ALLOWED.values()),
            line(answer, _REFUSE),
        ]
    )
