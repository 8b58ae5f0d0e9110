"""Files of rows: every row with its line, and a sentence with its place for everything that can be wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unmask.data.formats import read_rows
from unmask.data.rows import BadRow, Row
from unmask.errors import DataError

Write = Callable[..., Path]


def _read(path: Path) -> list[Any]:
    return [
        row if isinstance(row, BadRow) else (row.where.removeprefix(str(path)), row.fields) for row in read_rows(path)
    ]


def test_json_lines_keep_their_line_numbers(write: Write) -> None:
    path = write("a.jsonl", b'\xef\xbb\xbf{"text": "x"}\r\n\n   \n{"text": "\xe2\x80\xa8y"}')
    assert _read(path) == [(":1", {"text": "x"}), (":4", {"text": "\u2028y"})]


@pytest.mark.parametrize("indent", [None, 0, 4])
def test_a_json_array_keeps_its_line_numbers(write: Write, indent: int | None) -> None:
    rows = [{"text": "a\nb", "n": [1, {"x": 2}]}, {"text": "]"}, {"text": ","}]
    text = "\n\n" + json.dumps(rows, indent=indent)
    found = _read(write("a.json", text))
    assert [fields for _, fields in found] == rows
    lines = text.split("\n")
    if indent is not None:
        assert all(lines[int(where[1:]) - 1].strip().startswith("{") for where, _ in found)


def test_json_lines_named_json_and_gzip(write: Write) -> None:
    rows = [{"text": "a"}, {"text": "b"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in {
        "a.json": lines.encode(),
        "a.jsonl.gz": gzip.compress(lines.encode()),
        "a.json.gz": gzip.compress(json.dumps(rows).encode()),
    }.items():
        assert [fields for _, fields in _read(write(name, content))] == rows


def test_text_is_one_document_or_several(write: Write) -> None:
    assert _read(write("a.txt", "one\r\n\ntwo\n")) == [(":1", {"text": "one\n\ntwo\n"})]
    separated = "one\nmore\n<|endoftext|>\n\ntwo<|endoftext|>three\n<|endoftext|>\n"
    texts = [fields["text"] for _, fields in _read(write("b.txt", separated))]
    assert texts == ["one\nmore", "two", "three"]


def test_documents_know_where_they_start(write: Write) -> None:
    assert [where for where, _ in _read(write("b.txt", "one\ntwo\n<|endoftext|>\nthree"))] == [":1", ":3"]


BAD_LINES = [
    (b'{"text": "x}', r":2:10 invalid JSON: unterminated string"),
    (b'{"text": "x"', r":2:13 invalid JSON: expecting ',' delimiter"),
    (b"{'text': 1}", r":2:2 invalid JSON: expecting property name"),
    (b'{"text": 1} x', r":2:13 invalid JSON: extra data"),
    (b"[1,2]", r":2 expected an object, got array"),
    (b"null", r":2 expected an object, got null"),
    (b'"x"', r":2 expected an object, got string"),
    (b"5", r":2 expected an object, got number 5"),
    (b"true", r":2 expected an object, got true"),
    (b'{"text": "caf\xff"}', r":2 byte 14: not valid UTF-8 \(0xff\). Convert the file: iconv"),
    (b"[" * 100_000, r":2 invalid JSON: .*recursion"),
    (b'{"n": ' + b"9" * 5000 + b"}", r":2 invalid JSON: exceeds the limit"),
]


@pytest.mark.parametrize(("line", "phrase"), BAD_LINES, ids=[phrase[:30] for _, phrase in BAD_LINES])
def test_a_bad_line_is_named_and_the_others_are_read(write: Write, line: bytes, phrase: str) -> None:
    good = b'{"text": "good"}\n'
    before, bad, after = _read(write("a.jsonl", good + line + b"\n" + good))
    assert before[1] == after[1] == {"text": "good"}
    with pytest.raises(DataError, match=r"a\.jsonl" + phrase):
        raise bad


def test_a_truncated_last_line(write: Write) -> None:
    *_, last = _read(write("a.jsonl", '{"text": "a"}\n{"text": "b'))
    assert str(last).endswith("a.jsonl:2 ends in the middle of a record; the file may be cut off")


def test_a_truncated_archive(write: Write) -> None:
    data = gzip.compress(b'{"text": "a"}\n' * 1000)
    with pytest.raises(
        DataError, match=r"a\.jsonl\.gz:\d+ ends in the middle of its compressed data; the file may be cut off"
    ):
        _read(write("a.jsonl.gz", data[:-20]))
    with pytest.raises(DataError, match=r"is named \.gz but is not gzip data"):
        _read(write("b.jsonl.gz", b'{"text": "a"}\n'))


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ('[{"a": 1},\n {"a": }]', r"a\.json:2:8 invalid JSON: expecting value.* \(\.jsonl\) lets bad rows be skipped"),
        ('[{"a": 1}\n {"a": 2}]', r"a\.json:2:2 invalid JSON: expecting ',' delimiter"),
        ('[{"a": 1},\n]', r"a\.json:1:\d+ invalid JSON: illegal trailing comma"),
        ('[{"a": 1},\n {"a"', r"a\.json:2 ends in the middle of a record"),
        ('[{"a": 1},', r"a\.json:1 ends in the middle of a record"),
        ("[" * 100_000, r"a\.json invalid JSON: .*recursion"),
        ('[{"a": 1}]\n[]', r'a\.json:2 has text after the closing "\]"'),
    ],
)
def test_a_broken_array_cannot_be_read_further(write: Write, text: str, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        _read(write("a.json", text))


def test_bad_elements_of_an_array_are_named(write: Write) -> None:
    good, bad, other = _read(write("a.json", '[{"a": 1},\n null,\n {"a": 2}]'))
    assert str(bad).endswith("a.json:2 expected an object, got null")
    assert (good[0], other[0]) == (":1", ":3")


def test_one_object_over_several_lines_is_no_dataset(write: Write) -> None:
    first, *_ = _read(write("a.json", json.dumps({"version": 1, "data": [{"text": "a"}]}, indent=2)))
    assert "is one object (version, data); expected an array of objects, or one object per line" in str(first)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_an_empty_file_has_no_rows(write: Write, name: str) -> None:
    assert _read(write(name, "")) == []
    assert _read(write(name, "\n \n")) == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["a.jsonl", "a.json", "a.txt"]))
def test_mutated_files_never_end_in_a_traceback(tmp_path: Path, data: Any, name: str) -> None:
    content = bytearray(b'[{"text": "a", "n": [1.5, null]},\n {"text": "caf\xc3\xa9 \\ud83d"}]\n{"text": "b"}\n')
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path / name
    path.write_bytes(bytes(content))
    try:
        for row in read_rows(path):
            assert isinstance(row, Row | BadRow)
            where = row.where if isinstance(row, Row) else str(row)
            assert where.startswith(str(path))
    except DataError as problem:
        assert str(path) in str(problem)
