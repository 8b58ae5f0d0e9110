"""Results that are kept as they come, by one process or several, and put in order when all are there.

While a run goes on, each process appends to a part of its own, a row per line with its number. A process that is
killed leaves at most an unfinished last line, which is cut off when it starts again. A small file beside the output
says what it is made of, so that no rows of different runs are ever mixed. Knows neither prompts nor models.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from unmask.errors import ConfigError, ResourceError

_SCHEMA = "unmask-results/1"
_GO_ON = "the same command goes on with what is there"
_ADVICE = {
    # errno.EDQUOT is not known everywhere
    **dict.fromkeys((errno.ENOSPC, getattr(errno, "EDQUOT", 0)), f"Free space, or choose another place; {_GO_ON}."),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "A folder in the path is a file. Choose another --output."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "You may not write there. Choose another --output."),
    errno.ENAMETOOLONG: "Choose a shorter --output.",
}
Origin = Mapping[str, Any]


@dataclass(frozen=True)
class Share:
    """Which process this is, of how many."""

    rank: int = 0
    ranks: int = 1


class ResultFile:
    """The results of a run.

    Args:
        output: the file that holds all results when they are there, a JSON object per line, in the order of `rows`.
        rows: numbers of all rows, ascending, every process's.
        share: the rows with number `rank` modulo `ranks`, counted along `rows`, are this process's.

    Use as a context manager; then no other process can write the same part.

    Raises:
        ConfigError: the part is being written by another process, or is damaged.
        ResourceError: a file cannot be written.
    """

    def __init__(self, output: Path, rows: Sequence[int], share: Share | None = None) -> None:
        self.output, self.rows, self.share = output, rows, share or Share()
        self.part = _part(output, self.share)
        self._lock = FileLock(f"{self.part}.lock", timeout=0)
        self._stream: BinaryIO | None = None

    def __enter__(self) -> ResultFile:
        # nobody asks meanwhile whether this part is being written
        with _locked(self.output):
            try:
                self._lock.acquire()
            except Timeout:
                told = f"{self.output} is being written by another process. Wait for it, or stop it."
                raise ConfigError(told) from None
        with _writing(self.output):
            _cut_off_rest(self.part)
            self._stream = self.part.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
        self._lock.release()

    def left(self) -> list[int]:
        """The rows of this process that have no result yet, whoever might have written it."""
        done = self._done()
        return [row for row in self.rows[self.share.rank :: self.share.ranks] if row not in done]

    def add(self, row: int, result: Mapping[str, Any]) -> None:
        """Keep the result of a row."""
        with _writing(self.output):
            rest = memoryview(_line({"row": row, "result": result}))
            while rest and self._stream is not None:
                rest = rest[self._stream.write(rest) :]

    def missing(self) -> int:
        """How many rows have no result yet, of all processes."""
        done = self._done()
        return sum(row not in done for row in self.rows)

    def merge(self) -> bool:
        """Put all results into the output, in order, if all are there; whether they are in it now."""
        with _locked(self.output):
            if not self.output.exists():
                places = self._places()
                if any(row not in places for row in self.rows):
                    return False
                _merged(self.output, [places[row] for row in self.rows])
            _remove(self.output)
        return True

    def _done(self) -> Collection[int]:
        """Rows that have a result: all of them where another process has put the output together since."""
        with _locked(self.output):
            return set(self.rows) if self.output.exists() else self._places()

    def _places(self) -> dict[int, tuple[Path, int]]:
        """Row -> part and place of its line."""
        found: dict[int, tuple[Path, int]] = {}
        for part in _parts(self.output):
            for place, line in _whole_lines(part):
                found.setdefault(_row(part, place, line), (part, place))
        return found


def check_place(output: Path) -> None:
    """Refuse, before anything is computed, a place where no output can be written; nothing is left there.

    Raises:
        ConfigError: it has no name, or is a folder or a device.
        ResourceError: no file of this name can be made there.
    """
    if not output.name:
        raise ConfigError(f'the output is "{output}"; it must be a file. For example: --output results.jsonl')
    with _told(output):
        if output.exists():
            if not output.is_file():
                kind = "a folder" if output.is_dir() else "no regular file"
                raise ConfigError(f"{output} is {kind}. Name a file for the results: --output results.jsonl")
            return
        folder = next(folder for folder in output.absolute().parents if folder.exists())
        # as long as the longest name that is made later, and one that goes with the rest if the process is killed here
        trial = folder / f"{output.name}.part-{uuid.uuid4().hex[:10]}.lock"
        trial.open("xb").close()
        trial.unlink(missing_ok=True)


def check_origin(output: Path, origin: Origin, *, whole: bool = False) -> bool:
    """Refuse an output that is made of something else; whether it is complete.

    What is made of something else and has not a single row gives way, unless a process is at work on it.

    Args:
        output: the file.
        origin: name -> value of everything that decides what the results are, or of a part of it.
        whole: origin is all of it: where there is no output, it is written beside the place of it.

    Raises:
        ConfigError: the output, or its beginning, is made of something else, or is no output of this kind.
        ResourceError: the file beside it cannot be written.
    """
    now = json.loads(json.dumps(origin, sort_keys=True))
    with _told(output):
        is_there = output.exists()
    if whole and not is_there:
        with _locked(output):
            _claim(output, now)
    before = made_of(output)
    if before is None:
        if output.exists() or _parts(output):
            raise ConfigError(
                f"{output} exists and was not written by a run that can be gone on with. Choose another --output, or "
                "move it aside with --fresh."
            )
        return False
    changed = [f"{name} {before.get(name)!r} -> {now[name]!r}" for name in now if before.get(name) != now[name]]
    if changed and (whole or not _gives_way(output)):
        raise ConfigError(
            f"{output} is made of something else: {'; '.join(changed)}. Choose another --output, or move it aside with "
            "--fresh."
        )
    if not output.exists():
        return False
    _remove(output)
    return True


def made_of(output: Path) -> dict[str, Any] | None:
    """What is said beside an output that it is made of; None: nothing."""
    return (_run(output) or {}).get("made_of")


def remark(output: Path) -> Any:
    """What `put_remark` has kept with an output; None: nothing, or there is no output."""
    return (_run(output) or {}).get("remark")


def put_remark(output: Path, value: Any) -> None:
    """Keep something with an output that is complete, beside what it is made of. Must be JSON.

    Raises:
        ResourceError: the file beside it cannot be written.
    """
    if not output.exists() or remark(output) == value:
        return
    with _locked(output):
        run = _run(output)
        if run is not None:
            _write_run(output, {**run, "remark": value})
        _remove(output)


def kept(output: Path) -> int:
    """How many rows of an output that is not complete are there."""
    return len({line for part in _parts(output) for _, line in _whole_lines(part)})


def release(output: Path) -> None:
    """Remove what a run has put beside an output, if there is no row of it and no other process is at work on it.

    Raises:
        ResourceError: it cannot be removed.
    """
    with _locked(output):
        if not output.exists() and _is_bare(output) and made_of(output) is not None:
            _beside(output).unlink()
            _remove(output)


def move_aside(output: Path) -> Path | None:
    """Give an output and all that belongs to it other names; the output's new name, None where there was nothing.

    Raises:
        ResourceError: they cannot be renamed.
    """
    own = [path for path in (output, _beside(output), *_parts(output)) if path.exists()]
    if not own:
        return None
    number = 1
    while any(path.name.startswith(f"{output.name}.{number}") for path in output.parent.iterdir()):
        number += 1
    with _writing(output):
        for path in own:
            path.rename(path.with_name(path.name.replace(output.name, f"{output.name}.{number}", 1)))
    return output.with_name(f"{output.name}.{number}")


def _beside(output: Path) -> Path:
    return output.with_name(f"{output.name}.run.json")


def _part(output: Path, share: Share) -> Path:
    return output.with_name(f"{output.name}.part-{share.rank}-of-{share.ranks}")


def _parts(output: Path) -> list[Path]:
    prefix = f"{output.name}.part-"
    found = output.parent.iterdir() if output.parent.is_dir() else ()
    return sorted(path for path in found if path.name.startswith(prefix) and not path.name.endswith(".lock"))


def _run(output: Path) -> dict[str, Any] | None:
    """What is said beside an output."""
    try:
        found = json.loads(_beside(output).read_text("utf-8"))
        return found if found["schema"] == _SCHEMA and isinstance(found["made_of"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_run(output: Path, run: Mapping[str, Any]) -> None:
    _write_whole(_beside(output), json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def _claim(output: Path, now: dict[str, Any]) -> None:
    """Say beside an output what it is made of, unless another run has rows of it, or is about to write some."""
    if output.exists():
        return
    if _beside(output).exists():
        if made_of(output) in (None, now) or not _is_bare(output):
            return
        for part in _parts(output):
            part.unlink()
    _write_run(output, {"schema": _SCHEMA, "made_of": now})


def _gives_way(output: Path) -> bool:
    """Whether nobody minds if another run begins here."""
    if output.exists():
        return False
    with _locked(output):
        return _is_bare(output)


def _is_bare(output: Path) -> bool:
    """Whether there is no row, and no process holds a part."""
    if kept(output):
        return False
    prefix = f"{output.name}.part-"
    for path in [path for path in output.parent.iterdir() if path.name.startswith(prefix) and path.suffix == ".lock"]:
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return False
        lock.release()
    return True


def _line(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, default=str)
    # some readers take these for line breaks
    for letter in "\u0085\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text.encode("utf-8", "replace") + b"\n"


def _whole_lines(part: Path) -> Iterator[tuple[int, bytes]]:
    """Place and content of every line that is finished."""
    place = 0
    with part.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield place, line
            place += len(line)


def _row(part: Path, place: int, line: bytes) -> int:
    try:
        return int(json.loads(line)["row"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{part} is damaged at byte {place:,}: it is no row of results. Move the run aside with --fresh."
        ) from None


def _cut_off_rest(part: Path) -> None:
    """Remove what follows the last line break: it was being written when its process was killed."""
    if not part.exists():
        return
    end = max((place + len(line) for place, line in _whole_lines(part)), default=0)
    if end < part.stat().st_size:
        os.truncate(part, end)


def _merged(output: Path, places: Sequence[tuple[Path, int]]) -> None:
    aside = output.with_name(f"{output.name}.whole")
    with contextlib.ExitStack() as stack:
        streams = {part: stack.enter_context(part.open("rb")) for part in dict.fromkeys(part for part, _ in places)}
        target = stack.enter_context(aside.open("wb"))
        for part, place in places:
            streams[part].seek(place)
            result = json.loads(streams[part].readline())["result"]
            target.write(_line(result))
        target.flush()
        os.fsync(target.fileno())
    os.replace(aside, output)


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.whole")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, path)


def _remove(output: Path) -> None:
    """What is not needed any more once the output is whole."""
    names = (f"{output.name}.part-", f"{output.name}.lock")
    for path in [path for path in output.parent.iterdir() if path.name.startswith(names)]:
        # where an open file cannot be removed, a lock stays
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """No other process changes meanwhile what belongs to an output."""
    lock = f"{output}.lock"
    with _writing(output):
        open(lock, "ab").close()  # what cannot be made would be waited for without end
        with FileLock(lock):
            yield


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    with _told(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        yield


@contextlib.contextmanager
def _told(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or -1, f"Mend that, or choose another place; {_GO_ON}.")
        raise ResourceError(f"cannot write {output}: {error.strerror or error}. {advice}") from None
