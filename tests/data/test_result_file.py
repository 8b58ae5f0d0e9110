from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from unmask.data.result_file import (
    ResultFile,
    Share,
    check_origin,
    kept,
    made_of,
    move_aside,
    put_remark,
    release,
    remark,
)
from unmask.errors import ConfigError, ResourceError


def rows_of(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


def test_results_are_put_in_order(tmp_path: Path) -> None:
    output = tmp_path / "o [1].jsonl"
    with ResultFile(output, [2, 3, 5, 8]) as results:
        for row in (8, 2, 5):
            results.add(row, {"n": row, "text": "\u2028caf\u00e9"})
        assert results.left() == [3] and results.missing() == 1 and not results.merge() and not output.exists()
        results.add(3, {"n": 3})
        assert results.merge() and results.merge()
    assert rows_of(output) == [2, 3, 5, 8]
    assert [path.name for path in tmp_path.iterdir()] == ["o [1].jsonl"]


def test_a_part_cut_off_at_any_byte_loses_at_most_its_last_row(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    with ResultFile(output, range(4)) as results:
        for row in range(3):
            results.add(row, {"n": row, "text": "caf\u00e9\n"})
        whole = results.part.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        results.part.write_bytes(whole[:size])
        with ResultFile(output, range(4)) as again:
            kept = sum(end <= size for end in ends)
            assert again.left() == list(range(kept, 4))
            for row in again.left():
                again.add(row, {"n": row})
            assert again.merge()
        assert rows_of(output) == [0, 1, 2, 3]
        output.unlink()


def test_damage_inside_a_part_is_told(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    (tmp_path / "o.jsonl.part-0-of-1").write_bytes(b'{"row": 0, "result": {}}\n\0\0\n{"row": 1, "result": {}}\n')
    with (
        ResultFile(output, range(3)) as results,
        pytest.raises(ConfigError, match=r"part-0-of-1 is damaged at byte 25"),
    ):
        results.left()


def test_two_processes_do_not_write_one_part(tmp_path: Path) -> None:
    with (
        ResultFile(tmp_path / "o", range(3)),
        pytest.raises(ConfigError, match="is being written by another process"),
        ResultFile(tmp_path / "o", range(3)),
    ):
        pass
    with ResultFile(tmp_path / "o", range(3), Share(0, 2)), ResultFile(tmp_path / "o", range(3), Share(1, 2)):
        pass


def test_any_number_of_processes_goes_on_with_what_others_left(tmp_path: Path) -> None:
    chance = random.Random(0)
    rows = sorted(chance.sample(range(100), 30))
    written: list[int] = []
    for ranks in (3, 1, 4, 2, 5):
        for rank in range(ranks):
            with ResultFile(tmp_path / "o", rows, Share(rank, ranks)) as results:
                left = results.left()
                for row in left if ranks == 5 else left[: chance.randint(0, 2)]:
                    results.add(row, {"n": row})
                    written.append(row)
                done = results.merge()
    assert done and rows_of(tmp_path / "o") == rows and sorted(written) == rows


def test_nothing_is_missing_once_another_process_has_put_the_output_together(tmp_path: Path) -> None:
    output, rows = tmp_path / "o.jsonl", list(range(6))
    with ResultFile(output, rows, Share(0, 2)) as first, ResultFile(output, rows, Share(1, 2)) as last:
        for row in first.left():
            first.add(row, {"r": row})
        assert not first.merge() and first.missing() == 3
        for row in last.left():
            last.add(row, {"r": row})
        assert last.merge() and first.missing() == 0
    # one that was slow to start has nothing to do, and leaves no part behind
    with ResultFile(output, rows, Share(1, 2)) as late:
        assert late.left() == [] and late.merge()
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name and path.suffix != ".lock"] == []


def test_an_output_of_something_else_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    assert not check_origin(output, {"steps": 4, "stop": ("a",)})
    assert not list(tmp_path.iterdir())
    assert not check_origin(output, {"steps": 4, "stop": ("a",), "weights": "x"}, whole=True)
    assert not check_origin(output, {"steps": 4, "stop": ("a",)})
    with ResultFile(output, range(2)) as results:
        results.add(0, {})
    with pytest.raises(ConfigError, match=r"made of something else: steps 4 -> 5; weights 'x' -> 'y'. .*--fresh"):
        check_origin(output, {"steps": 5, "stop": ("a",), "weights": "y"}, whole=True)
    output.write_text("")
    assert check_origin(output, {"steps": 4})


def test_a_stranger_s_file_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=r"o.jsonl exists and was not written by a run .* Choose another --output"):
        check_origin(tmp_path / "o.jsonl", {"a": 1}, whole=True)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["o.jsonl"]


def test_an_earlier_output_is_moved_aside_with_all_its_files(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    assert move_aside(output) is None
    for number in (1, 2):
        check_origin(output, {"number": number}, whole=True)
        with ResultFile(output, range(2)) as results:
            results.add(0, {"n": 0})
        assert move_aside(output) == tmp_path / f"o.jsonl.{number}"
        assert not check_origin(output, {"number": number + 1})
    assert json.loads((tmp_path / "o.jsonl.2.run.json").read_text())["made_of"] == {"number": 2}
    assert (tmp_path / "o.jsonl.2.part-0-of-1").exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot write .*file/o: .*Choose another|cannot write .*file/o: .*choose"):
        check_origin(tmp_path / "file" / "o", {"a": 1}, whole=True)


def leave(output: Path, steps: int) -> None:
    """What a run that was killed before its first row leaves."""
    check_origin(output, {"steps": steps}, whole=True)
    with ResultFile(output, range(3)) as results:
        results.part.write_bytes(b'{"row": 0, "resu')


def test_an_output_without_a_row_gives_way(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    leave(output, 4)
    # what is asked before a model is loaded changes nothing
    assert not check_origin(output, {"steps": 5}) and made_of(output) == {"steps": 4}
    assert not check_origin(output, {"steps": 5}, whole=True) and made_of(output) == {"steps": 5}
    with ResultFile(output, range(3), Share(1, 2)) as results:
        assert results.left() == [1]
        results.add(1, {"n": 1})
    for whole in (False, True):
        with pytest.raises(ConfigError, match="made of something else: steps 5 -> 6"):
            check_origin(output, {"steps": 6}, whole=whole)


def test_an_output_that_a_process_is_at_work_on_does_not_give_way(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    leave(output, 4)
    with ResultFile(output, range(3), Share(1, 2)):
        for whole in (False, True):
            with pytest.raises(ConfigError, match="made of something else: steps 4 -> 5"):
                check_origin(output, {"steps": 5}, whole=whole)
        release(output)
        assert made_of(output) == {"steps": 4}
    release(output)
    assert not list(tmp_path.iterdir())


def test_rows_are_counted_and_kept(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    assert kept(output) == 0
    check_origin(output, {"steps": 4}, whole=True)
    for rank in range(2):
        with ResultFile(output, range(5), Share(rank, 2)) as results:
            results.add(rank, {"text": ""})
    release(output)
    assert kept(output) == 2 and made_of(output) == {"steps": 4}


def test_a_remark_is_kept_with_what_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    put_remark(output, {"a": 1})
    assert remark(output) is None and not list(tmp_path.iterdir())
    check_origin(output, {"steps": 4}, whole=True)
    with ResultFile(output, range(1)) as results:
        results.add(0, {})
        results.merge()
    put_remark(output, {"a": 1})
    assert remark(output) == {"a": 1} and check_origin(output, {"steps": 4}, whole=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "o.jsonl.run.json"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free space, or choose another place; the same command goes on"),
        (errno.EACCES, "You may not write there. Choose another --output."),
        (errno.EIO, "Mend that, or choose another place; the same command goes on"),
    ],
)
def test_advice_fits_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ResourceError) as caught:
        check_origin(tmp_path / "o", {"a": 1}, whole=True)
    assert advice in str(caught.value) and os.strerror(number) in str(caught.value)
    assert ("Free space" in str(caught.value)) == (number == errno.ENOSPC)


def test_a_lock_that_cannot_be_made_is_not_waited_for(tmp_path: Path) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("has no /proc")
    with pytest.raises(ResourceError, match="cannot write /proc/o"):
        check_origin(Path("/proc/o"), {"a": 1}, whole=True)
    with pytest.raises(ResourceError, match="cannot write /proc/o"), ResultFile(Path("/proc/o"), range(2)):
        pass
