"""Bad rows and damaged files: the place, the reason, and exact counts where they are skipped."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_from_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unmask.data.build import build_pretrain, build_sft
from unmask.data.formats import read_rows
from unmask.data.rows import Row
from unmask.data.sources import Reading, load_records
from unmask.data.spec import parse_dataset_args
from unmask.errors import DataError
from unmask.training.arguments import DataArguments

Write = Callable[..., Path]


def _load(path: Any, want: Any = "text", **options: Any) -> Any:
    (spec,) = parse_dataset_args(str(path))
    return load_records(spec, Reading(want, **options))


CSV = [
    (b"text\na\n\xff\nb\n", r"a\.csv:3 byte 1: not valid UTF-8 \(0xff\)"),
    (b"text,n\na,1\nb\nc,3\n", r"a\.csv:3 has 1 cells, but the header has 2"),
    (b"text,n\na,1\nb,2,3\n", r"a\.csv:3 has 3 cells, but the header has 2"),
    (b'text\n"a\nb"\n"c" d\n', r"a\.csv:4 invalid CSV: ',' expected after '\"'"),
    (b'text\na\n"b\nc\nd', r"a\.csv:3 ends in the middle of a quoted cell"),
    (b"txet\na\n", r'a\.csv:2 no "text" or "messages" key \(found: txet\).*Did you mean "text"'),
    (b"text,text\na,b\n", r'a\.csv:1 the header names the column "text" twice'),
    (b"te\xffxt\na\n", r"a\.csv:1 byte 3: not valid UTF-8.*It is the header"),
    (b"text\n", r"a\.csv holds 0 records"),
    (b"", r"a\.csv holds 0 records"),
]


@pytest.mark.parametrize(("content", "phrase"), CSV, ids=[phrase[:40] for _, phrase in CSV])
def test_bad_csv(write: Write, content: bytes, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        _load(write("a.csv", content))


def test_rows_of_csv_keep_their_lines(write: Write) -> None:
    path = write("a.csv", 'text,n\n"one\ntwo",1\n\nthree,2\n"",3\n')
    rows = list(_load(path).train)
    assert rows == [
        {"text": "one\ntwo", "where": f"{path}:2"},
        {"text": "three", "where": f"{path}:5"},
        {"text": "", "where": f"{path}:6"},
    ]


def test_a_cell_may_be_long(write: Write) -> None:
    assert len(_load(write("a.csv", f"text\n{'x' * 300_000}\n")).train[0]["text"]) == 300_000


def test_a_quote_in_a_tab_separated_file_is_a_character(write: Write) -> None:
    path = write("a.tsv", 'text\tn\n"Thriller\t1\n"a" b\t2\n\nc\n')
    records = _load(path, skip_bad_rows=True)
    assert records.train["text"][:] == ['"Thriller', '"a" b']
    assert "1 of 3 rows skipped" in records.notes[0] and "a.tsv:5 has 1 cells" in records.notes[0]


def test_bad_bytes_in_an_array_are_a_bad_row(write: Write) -> None:
    path = write("a.json", b'[{"text": "a"},\n {"text":\n "\xff"},\n {"text": "b"}]')
    with pytest.raises(DataError, match=r"a\.json:3 byte 3: not valid UTF-8"):
        _load(path)
    records = _load(path, skip_bad_rows=True)
    assert records.train["text"][:] == ["a", "b"] and "1 of 3 rows skipped" in records.notes[0]


# Parquet and Arrow


def _parquet(path: Path, rows: int = 5000) -> Path:
    chance = random.Random(0)
    texts = ["".join(chance.choices("abcdefgh", k=20)) for _ in range(rows)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=1000)
    return path


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, -1])
def test_a_truncated_parquet_file(tmp_path: Path, keep: float) -> None:
    path = _parquet(tmp_path / "a.parquet")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet: .*; the file may be cut off"):
        _load(path)


def test_a_damaged_page_of_a_parquet_file(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "a.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = b"\xff" * 200
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"a\.parquet cannot be read from row \d+ on: |a\.parquet row \d+ "):
        _load(path)


@pytest.mark.parametrize(
    ("column", "phrase"),
    [
        ({"text": ["a", None]}, r'a\.parquet row 2 "text" must be a string, got null'),
        ({"text": [1, 2]}, r'a\.parquet row 1 "text" must be a string, got number 1 \(2 such rows'),
        ({"text": [["a"], ["b"]]}, r'a\.parquet row 1 "text" must be a string, got array'),
        ({"text": pa.array([], pa.string())}, r"a\.parquet holds 0 records"),
        (
            {"text": pa.array([b"a", b"\xff"]).view(pa.string())},
            r"a\.parquet row 2 byte 1: not valid UTF-8",
        ),
    ],
)
def test_bad_rows_of_parquet(tmp_path: Path, column: Any, phrase: str) -> None:
    pq.write_table(pa.table(column), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=phrase):
        _load(tmp_path / "a.parquet")


def test_a_truncated_save_to_disk_folder(tmp_path: Path) -> None:
    Dataset.from_list([{"text": "hello " * 20}] * 3000).save_to_disk(tmp_path / "d")
    file = next((tmp_path / "d").glob("*.arrow"))
    content = file.read_bytes()
    for keep in (0, 10, len(content) // 2, len(content) - 10):
        file.write_bytes(content[:keep])
        try:
            whole = len(load_from_disk(str(tmp_path / "d"))) == 3000
        except (OSError, ValueError):
            whole = False
        if not whole:
            with pytest.raises(DataError, match=r"d is a save_to_disk folder that cannot be read"):
                _load(tmp_path / "d")


def test_a_damaged_arrow_file_is_never_read_past_its_end(tmp_path: Path) -> None:
    # Offsets of texts, written over with huge numbers: Arrow itself would follow them out of its memory.
    Dataset.from_dict({"text": [f"row {number}" for number in range(100)]}).save_to_disk(tmp_path / "d")
    file = next((tmp_path / "d").glob("*.arrow"))
    content = file.read_bytes()
    offsets = np.cumsum([0] + [len(f"row {number}") for number in range(100)]).astype(np.int32).tobytes()
    assert content.count(offsets) == 1
    file.write_bytes(content.replace(offsets, offsets[:200] + b"\xff\xff\xff\x7e" * 10 + offsets[240:]))
    with pytest.raises(DataError, match=r"d row 1 and those behind it cannot be read, the file is damaged"):
        _load(tmp_path / "d")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["a.csv", "a.tsv", "a.parquet", "a.npy"]))
def test_mutated_files_never_end_in_a_traceback(tmp_path: Path, data: Any, name: str) -> None:
    if not (tmp_path / "a.npy").exists():
        table = pa.table({"text": ['a "b"', "c\nd", "é"], "n": [1, 2, 3]})
        pq.write_table(table, tmp_path / "a.parquet", compression="none")
        (tmp_path / "a.csv").write_text('text,n\n"a ""b""",1\n"c\nd",2\né,3\n')
        (tmp_path / "a.tsv").write_text("text\tn\na\t1\nb\t2\n")
        np.save(tmp_path / "a.npy", np.arange(12).reshape(3, 4))
    content = bytearray((tmp_path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path / f"mutated{Path(name).suffix}"
    path.write_bytes(bytes(content))
    try:
        for row in read_rows(path):
            assert (row.where if isinstance(row, Row) else str(row)).startswith(str(path))
    except DataError as problem:
        assert str(path) in str(problem)


# Numpy


NUMPY = [
    (
        np.zeros((3, 4), np.float32),
        r"holds float32 \[3, 4\]; expected whole numbers \(int32\) of shape \[rows, l",
    ),
    (np.zeros(4, np.int32), r"holds int32 \[4\]; expected whole numbers"),
    (np.zeros((2, 3, 4), np.int32), r"holds int32 \[2, 3, 4\]; expected"),
    (np.zeros((2, 3), bool), r"holds bool \[2, 3\]; expected"),
    (np.zeros((0, 4), np.int32), r"input_ids\.npy holds 0 records"),
    (np.array([[5, 99_999]]), r"row 1 holds the id 99999, but the tokenizer has"),
    (np.array([[5, -1]]), r"row 1 holds the id -1, but the tokenizer has"),
    (np.array([[5, 2**40]]), r"input_ids\.npy holds input_ids beyond int32, from 5 to 1099511627776"),
]


@pytest.mark.parametrize(("values", "phrase"), NUMPY, ids=[phrase[:20] for _, phrase in NUMPY])
def test_bad_numpy_files(tmp_path: Path, byte_tokenizer: Any, values: Any, phrase: str) -> None:
    np.save(tmp_path / "input_ids.npy", values)
    with pytest.raises(DataError, match=phrase):
        build_pretrain(DataArguments(str(tmp_path / "input_ids.npy"), max_length=8), byte_tokenizer)


def test_numpy_files_that_do_not_belong_together_or_hold_objects(tmp_path: Path, byte_tokenizer: Any) -> None:
    def build() -> None:
        build_sft(DataArguments(str(tmp_path)), byte_tokenizer)

    np.save(tmp_path / "input_ids.npy", np.zeros((3, 4), np.int32) + 20)
    np.save(tmp_path / "prompt_lengths.npy", np.zeros(2, np.int32))
    with pytest.raises(DataError, match=r"prompt_lengths\.npy has the shape \[2\], but input_ids\.npy .* needs \[3\]"):
        build()
    (tmp_path / "prompt_lengths.npy").unlink()
    with pytest.raises(DataError, match="have no labels and no prompt_len"):
        build()
    content = (tmp_path / "input_ids.npy").read_bytes()
    (tmp_path / "input_ids.npy").write_bytes(content[:-5])
    with pytest.raises(DataError, match=r"input_ids\.npy cannot be read as a numpy array: .* may be cut off"):
        build()
    np.save(tmp_path / "input_ids.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"input_ids\.npy cannot be read as a numpy array"):
        build()


# Rows of tokens in other files


@pytest.mark.parametrize(
    ("row", "phrase"),
    [
        ({"input_ids": "5 6", "prompt_len": 1}, r'"input_ids" must be an array of whole numbers, got string'),
        ({"input_ids": [5, 6.5], "prompt_len": 1}, r'"input_ids" must hold whole numbers only, got number 6.5'),
        ({"input_ids": [5, 2**40], "prompt_len": 1}, r'"input_ids" must hold whole numbers only'),
        ({"input_ids": [], "prompt_len": 0}, r'"input_ids" is empty'),
        ({"input_ids": None, "prompt_len": 0}, r'no "input_ids" key'),
        ({"input_ids": [5, 6], "prompt_len": "1"}, r'"prompt_len" must be a whole number from 0, got string'),
        ({"input_ids": [5, 6], "prompt_len": -1}, r'"prompt_len" must be a whole number from 0, got number -1'),
        ({"input_ids": [5, 6]}, r'no "prompt_len" key \(found: input_ids\)'),
    ],
)
def test_bad_rows_of_tokens(write: Write, byte_tokenizer: Any, row: Any, phrase: str) -> None:
    path = write("a.jsonl", [{"input_ids": [20, 21], "prompt_len": 1}, row, {"input_ids": [22, 23], "prompt_len": 1}])
    with pytest.raises(DataError, match=rf"a\.jsonl:2 {phrase}"):
        build_sft(DataArguments(str(path)), byte_tokenizer)
    skipped = build_sft(DataArguments(str(path), skip_bad_rows=True), byte_tokenizer)
    assert [row["input_ids"] for row in skipped.train] == [[20, 21], [22, 23]]
    assert "1 of 3 rows skipped" in skipped.notes[0]


@pytest.mark.parametrize(
    ("column", "phrase"),
    [
        (["5 6"], r'd row 1 "input_ids" must be an array of whole numbers, got string'),
        ([[5.0, 6.0]], r'd row 1 "input_ids" must hold whole numbers only, got number 5.0'),
        ([[20, 21], None], r'd row 2 "input_ids" is null'),
    ],
)
def test_bad_columns_of_tokens_in_arrow(tmp_path: Path, byte_tokenizer: Any, column: Any, phrase: str) -> None:
    Dataset.from_dict({"input_ids": column, "prompt_len": [1] * len(column)}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=phrase):
        build_sft(DataArguments(str(tmp_path / "d")), byte_tokenizer)


# Counting


def _spoiled(count: int, seed: int) -> tuple[list[bytes], int]:
    """Lines of conversations, some of them bad in one of many ways, and how many are good."""
    chance = random.Random(seed)
    ways: list[Callable[[], bytes]] = [
        lambda: b'{"user": "q"',
        lambda: b"null",
        lambda: b"[1, 2]",
        lambda: json.dumps({"user": "q"}).encode(),
        lambda: json.dumps({"user": 5, "assistant": "a"}).encode(),
        lambda: json.dumps({"user": None, "assistant": "a"}).encode(),
        lambda: b'{"user": "\xff", "assistant": "a"}',
        lambda: b'{"user": "\\ud800", "assistant": "a"}',
        lambda: json.dumps({"messages": [{"role": "user", "content": "q"}]}).encode(),
        lambda: json.dumps({"messages": [{"role": "usr", "content": "q"}]}).encode(),
        lambda: json.dumps({"user": "<|mask|>", "assistant": "a"}).encode(),
    ]
    good = json.dumps({"user": "q", "assistant": "a"}).encode()
    flags = [chance.random() < 0.7 for _ in range(count)]
    return [good if flag else chance.choice(ways)() for flag in flags], sum(flags)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("streaming", [False, True])
def test_skipped_rows_are_counted_exactly(
    write: Write, byte_tokenizer: Any, seed: int, streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    lines, good = _spoiled(200, seed)
    path = write("a.jsonl.gz", gzip.compress(b"\n".join(lines) + b"\n"))
    splits = build_sft(DataArguments(str(path), skip_bad_rows=True, streaming=streaming), byte_tokenizer)
    assert len(list(splits.train)) == good
    with_mask = sum(b"<|mask|>" in line for line in lines)
    told = caplog.text if streaming else " ".join(splits.notes)
    assert f"{200 - good - with_mask} of 200 rows skipped" in told
    assert f"{with_mask} of {good + with_mask}" in told
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:\d+"):
        list(build_sft(DataArguments(str(path), streaming=streaming), byte_tokenizer).train)


def test_bad_rows_of_tables_are_counted_exactly(tmp_path: Path) -> None:
    chance = random.Random(1)
    texts = [chance.choice(["good", None]) for _ in range(500)]
    good = sum(text is not None for text in texts)
    Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "d")
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    for path in (tmp_path / "d", tmp_path / "a.parquet"):
        records = _load(path, skip_bad_rows=True)
        assert len(records.train) == good
        assert f"{500 - good} of 500 rows skipped" in records.notes[0]
        first = texts.index(None) + 1
        with pytest.raises(DataError, match=rf"row {first} .* \({500 - good} such rows"):
            _load(path)
