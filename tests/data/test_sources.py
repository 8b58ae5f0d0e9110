"""Datasets of every kind are opened, and their training and test parts never overlap."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unmask.data.examples import EXAMPLE_NAMES
from unmask.data.sources import Reading, load_records
from unmask.data.spec import parse_dataset_args
from unmask.errors import ConfigError, DataError, ResourceError

Write = Callable[..., Path]
TEXT = Reading("text")


def _load(text: str | Path, reading: Reading = TEXT, **options: Any) -> Any:
    (spec,) = parse_dataset_args(str(text))
    return load_records(spec, reading, **options)


def _texts(table: Any) -> list[str]:
    return [row["text"] for row in (table() if callable(table) else table)]


def _rows(count: int, prefix: str = "") -> list[dict[str, str]]:
    return [{"text": f"{prefix}{number}"} for number in range(count)]


def _saved(folder: Path, count: int = 10) -> Path:
    Dataset.from_list(_rows(count)).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "saved", "parquet", "csv", "glob", "folder"])
def test_kinds(write: Write, tmp_path: Path, kind: str) -> None:
    table = Dataset.from_list(_rows(10, "t"))
    if kind == "jsonl":
        path = write("a.jsonl", _rows(10, "t"))
    elif kind == "saved":
        table.save_to_disk(path := tmp_path / "saved")
    elif kind == "parquet":
        table.to_parquet(path := tmp_path / "a.parquet")
    elif kind == "csv":
        table.to_csv(path := tmp_path / "a.csv")
    else:
        write("in/b1.jsonl", _rows(10, "t")[:4])
        write("in/b2.jsonl", _rows(10, "t")[4:])
        write("in/README.txt", "about")
        write("in/dataset_infos.json", "{}")
        path = tmp_path / "in" / ("*.jsonl" if kind == "glob" else "")
    records = _load(path)
    assert (_texts(records.train), records.test, records.notes) == ([f"t{n}" for n in range(10)], None, [])
    divided = _load(f"{path}[test:3]")
    assert sorted(_texts(divided.train) + _texts(divided.test)) == sorted(_texts(records.train))
    assert len(divided.test) == 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 40), st.integers(1, 50), st.integers(1, 39), st.none() | st.integers(0, 5), st.booleans())
def test_train_and_test_never_overlap(
    tmp_path: Path, total: int, train: int, test: int, seed: int | None, saved: bool
) -> None:
    path = tmp_path / f"{total}{saved}"
    if not path.exists():
        if saved:
            _saved(path, total)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in _rows(total)))
            path = path.rename(path.with_suffix(".jsonl"))
    if test >= total:
        return
    options = f"train:{train},test:{test}" + ("" if seed is None else f",seed:{seed}")
    records = _load(f"{path}[{options}]")
    trained, tested = _texts(records.train), _texts(records.test)
    assert len(tested) == test and len(trained) == min(train, total - test)
    assert not set(trained) & set(tested)
    # In the order of the file, the same again, and the test part independent of how much is trained on.
    assert trained == sorted(trained, key=int) and tested == sorted(tested, key=int)
    again = _load(f"{path}[test:{test}" + ("]" if seed is None else f",seed:{seed}]"))
    assert _texts(again.test) == tested
    assert set(trained) <= set(_texts(again.train))


def test_the_division_is_a_shuffle_that_a_seed_changes(write: Write) -> None:
    path = write("a.jsonl", _rows(100))
    tests = [tuple(_texts(_load(f"{path}[test:10{seed}]").test)) for seed in ("", ",seed:1", ",seed:2")]
    assert len(set(tests)) == 3
    assert tests[0] != tuple(map(str, range(10)))


def test_shares(write: Write) -> None:
    path = write("a.jsonl", _rows(200))
    records = _load(f"{path}[train:50%,test:5%]")
    assert (len(records.train), len(records.test)) == (100, 10)
    whole = _load(f"{path}[train:95%,test:5%]")
    assert (len(whole.train), len(whole.test), whole.notes) == (190, 10, [])


def test_splits_of_their_own_are_kept(tmp_path: Path) -> None:
    splits = {name: Dataset.from_list(_rows(10, name)) for name in ("train", "test", "extra")}
    DatasetDict(splits).save_to_disk(tmp_path / "d")
    records = _load(tmp_path / "d")
    assert (_texts(records.train)[0], _texts(records.test)[0]) == ("train0", "test0")
    limited = _load(f"{tmp_path}/d[train:4,test:2]")
    assert (len(limited.train), len(limited.test)) == (4, 2)
    assert all(text.startswith("test") for text in _texts(limited.test))
    single = _load(f"{tmp_path}/d[split:extra,test:2]")
    assert all(text.startswith("extra") for text in _texts(single.train) + _texts(single.test))
    with pytest.raises(DataError, match=r'has splits: train, test, extra; no "extr"\. Did you mean "extra"\?'):
        _load(f"{tmp_path}/d[split:extr]")


def test_files_named_after_splits(write: Write, tmp_path: Path) -> None:
    write("train.jsonl", _rows(5, "a"))
    write("test-00.jsonl", _rows(2, "b"))
    write("test-01.jsonl", _rows(2, "c"))
    records = _load(tmp_path)
    assert (len(records.train), _texts(records.test)) == (5, ["b0", "b1", "c0", "c1"])


def test_files_below_a_folder_are_found_where_it_has_none(write: Write, tmp_path: Path) -> None:
    write("hub/data/train-00000-of-00001.jsonl", _rows(3))
    write("hub/data/test-00000-of-00001.jsonl", _rows(2))
    write("hub/README.md", "about")
    records = _load(tmp_path / "hub")
    assert (len(records.train), len(records.test)) == (3, 2)


def test_a_readme_beside_texts_is_no_document(write: Write, tmp_path: Path) -> None:
    write("texts/README.txt", "about")
    write("texts/story.txt", "once")
    assert _texts(_load(tmp_path / "texts").train) == ["once"]


def test_streamed_parts_are_disjoint_and_in_order(write: Write) -> None:
    path = write("a.jsonl", _rows(10))
    records = _load(f"{path}[train:5,test:3]", streaming=True)
    assert _texts(records.test) == ["0", "1", "2"]
    assert _texts(records.train) == _texts(records.train) == ["3", "4", "5", "6", "7"]
    assert _texts(_load(path, streaming=True).train) == [str(number) for number in range(10)]


def test_a_stream_stops_at_a_bad_row_at_once(write: Write) -> None:
    path = write("a.jsonl", [{"text": "a"}, {"txet": "b"}, {"text": "c"}])
    stream = _load(path, streaming=True).train()
    assert next(stream)["text"] == "a"
    with pytest.raises(DataError, match=r'a\.jsonl:2 no "text"'):
        next(stream)
    skipping = _load(path, Reading("text", skip_bad_rows=True), streaming=True)
    assert _texts(skipping.train) == ["a", "c"]


def test_the_first_bad_row_is_named_and_its_like_are_counted(write: Write) -> None:
    rows = [{"text": 1} if number % 4 == 2 else {"text": "x"} for number in range(100)] + [{"txet": "y"}]
    with pytest.raises(DataError, match=r'a\.jsonl:3 "text" must be a string, got number 1 \(25 such rows, 25%\)\. To'):
        _load(write("a.jsonl", rows))


def test_a_single_bad_row_is_not_counted(write: Write) -> None:
    path = write("a.jsonl", [{"text": "x"}, {"txet": "y"}])
    with pytest.raises(DataError, match=r'Did you mean "text"\? To leave bad rows out: --skip_bad_rows true$'):
        _load(path)


def test_skipped_rows_are_counted_and_listed(write: Write) -> None:
    rows = [{"text": "x"}, {"text": 1}, *({"txet": str(n)} for n in range(8)), {"text": "y"}]
    records = _load(write("a.jsonl", rows), Reading("text", skip_bad_rows=True))
    assert _texts(records.train) == ["x", "y"]
    (note,) = records.notes
    assert "9 of 11 rows skipped" in note and "a.jsonl:2 " in note and note.endswith("...")


def test_rows_of_a_table_are_numbered(tmp_path: Path) -> None:
    Dataset.from_list([{"text": "a"}, {"text": None}]).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r'd row 2 "text" must be a string, got null'):
        _load(tmp_path / "d")


@pytest.mark.parametrize(
    ("content", "options", "phrase"),
    [
        ("", "", r"a\.jsonl holds 0 records"),
        ("\n\n", "", r"a\.jsonl holds 0 records"),
        ('{"text": "a"}\n', "[test:1]", r"has 1 row: test:1 leaves no row for one of the two parts\.$"),
        ('{"text": "a"}\n', "[split:dev]", r'has splits: train; no "dev"'),
    ],
)
def test_too_few_rows(write: Write, content: str, options: str, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        _load(f"{write('a.jsonl', content)}{options}")


def test_asking_for_more_than_there_is_is_said(write: Write) -> None:
    records = _load(f"{write('a.jsonl', _rows(5))}[train:10,test:2]")
    assert len(records.train) == 3
    assert "train:10 asks for more rows than there are; all 3 are used" in records.notes[0]


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ("[name:x]", "name is for Hub datasets"),
    ],
)
def test_options_that_do_not_apply(write: Write, options: str, phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        _load(f"{write('a.jsonl', _rows(5))}{options}")


@pytest.mark.parametrize(("options", "phrase"), [("[test:5%]", "no known length"), ("[seed:1]", "seed has no effect")])
def test_options_that_a_stream_does_not_have(write: Write, options: str, phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        _load(f"{write('a.jsonl', _rows(5))}{options}", streaming=True)


def test_files_that_are_not_there_or_not_readable(write: Write, tmp_path: Path) -> None:
    write("data/train.jsonl", _rows(3))
    with pytest.raises(
        DataError, match=r'no file, folder or match for ".*trian\.jsonl"\. Did you mean "train\.jsonl"\?'
    ):
        _load(tmp_path / "data" / "trian.jsonl")
    with pytest.raises(DataError, match=r"x\.docx is no file that can be read; allowed: \.json, \.jsonl"):
        _load(write("x.docx", "x"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no data"):
        _load(tmp_path / "empty")
    write("mixed/a.jsonl", _rows(3))
    write("mixed/b.csv", "text\nx\n")
    with pytest.raises(DataError, match=r"mixed mixes kinds of files \(1 \.csv, 1 \.jsonl\)"):
        _load(tmp_path / "mixed")
    (tmp_path / "broken").mkdir()
    write("broken/state.json", "{}")
    with pytest.raises(DataError, match=r"broken is a save_to_disk folder that cannot be read"):
        _load(tmp_path / "broken")


@pytest.mark.parametrize(
    ("failure", "phrase"),
    [
        (DatasetNotFoundError("Dataset 'x/y' is a gated dataset on the Hub."), r"gated: accept its terms at .*x/y"),
        (
            DatasetNotFoundError("Dataset 'x/y' doesn't exist"),
            r'no file, folder or Hub dataset "x/y"\. If "y" is a conf',
        ),
        (ConnectionError("Couldn't reach"), r"offline and not in the cache"),
        (ValueError("Config name is missing.\nPlease pick"), r'dataset "x/y" cannot be loaded: Config name is missing'),
    ],
)
def test_failures_of_the_hub_are_sentences(monkeypatch: pytest.MonkeyPatch, failure: Exception, phrase: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr("unmask.data.sources.hub.load_dataset", fail)
    with pytest.raises(DataError, match=phrase):
        _load("x/y[name:z]")


def test_hub_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(path: str, name: str | None, *, streaming: bool) -> Any:
        asked.append((path, name, streaming))
        table = DatasetDict({"train": Dataset.from_list(_rows(9))})
        return {"train": table["train"].to_iterable_dataset()} if streaming else table

    monkeypatch.setattr("unmask.data.sources.hub.load_dataset", load)
    assert len(_load("x/y[name:z,test:2]").train) == 7
    streamed = _load("x/y[train:4,test:2]", streaming=True)
    assert (_texts(streamed.test), _texts(streamed.train)) == (["0", "1"], ["2", "3", "4", "5"])
    assert asked == [("x/y", "z", False), ("x/y", None, True)]


def test_tables_are_mapped_from_files(write: Write) -> None:
    path = write("a.jsonl", "".join(f'{{"text": "{number}"}}\n' for number in range(20_000)))
    table = _load(path).train
    assert len(table) == 20_000 and table.cache_files
    assert datasets.Dataset.from_file(table.cache_files[0]["filename"])[19_999]["text"] == "19999"


def test_temporary_files_go_with_the_process(write: Write, tmp_path: Path) -> None:
    path = write("a.jsonl", _rows(5))
    script = (
        "from unmask.data.sources import *; from unmask.data.spec import *\n"
        f"table = load_records(parse_dataset_args({str(path)!r})[0], Reading('text')).train\n"
        "print(table.cache_files[0]['filename'])"
    )
    (scratch := tmp_path / "scratch").mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(scratch))
    assert not list(itertools.chain(scratch.glob("unmask-*")))


# ModelScope and examples


@pytest.fixture
def modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the package: every dataset is the folder that is returned, but for `no/such`."""
    folder = tmp_path / "snapshot"
    folder.mkdir()

    class NotExistError(Exception):
        pass

    def dataset_snapshot_download(dataset_id: str) -> str:
        if dataset_id == "no/such":
            raise NotExistError("The dataset no/such does not exist")
        return str(folder)

    errors = ModuleType("modelscope.hub.errors")
    errors.NotExistError = NotExistError  # type: ignore[attr-defined]
    package = ModuleType("modelscope")
    package.dataset_snapshot_download = dataset_snapshot_download  # type: ignore[attr-defined]
    for name, module in {"modelscope": package, "modelscope.hub.errors": errors}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return folder


def test_modelscope(write: Write, modelscope: Path) -> None:
    write("snapshot/train.json", json.dumps(_rows(9)))
    write("snapshot/dataset_infos.json", '{"default": {}}')
    write("snapshot/README.md", "about")
    assert _texts(_load("modelscope:some/texts").train) == [str(number) for number in range(9)]
    divided = _load("modelscope:some/texts[train:4,test:2]")
    assert (len(divided.train), len(divided.test)) == (4, 2)
    assert _texts(_load("modelscope:some/texts", streaming=True).train)[-1] == "8"
    write("snapshot/more/extra.csv", "text\nx\n")
    assert _texts(_load("modelscope:some/texts[name:more]").train) == ["x"]
    assert _texts(_load("modelscope:some/texts[name:more/*.csv]").train) == ["x"]
    with pytest.raises(DataError, match=r'"modelscope:some/texts" holds no "mor"; it holds: README.md'):
        _load("modelscope:some/texts[name:mor]")
    with pytest.raises(DataError, match=r"cannot be downloaded: The dataset no/such does not exist"):
        _load("modelscope:no/such")
    with pytest.raises(DataError, match=r"is written as modelscope:owner/name"):
        _load("modelscope:texts")


def test_modelscope_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ResourceError, match=r'modelscope. Install it: pip install "unmask\[modelscope'):
        _load("modelscope:some/texts")


@pytest.mark.parametrize(("kind", "want"), [("text", "text"), ("tables", "conversation")])
def test_examples(kind: Any, want: Any) -> None:
    def load(options: str = "", **streaming: Any) -> Any:
        return _load(f"example:{kind}{options}", Reading(want), **streaming)

    records = load("[train:30,test:10]")
    assert (len(records.train), len(records.test)) == (30, 10)
    assert records.train[:] == load("[train:30,test:10]").train[:]
    assert records.train[:] != load("[train:30,test:10,seed:1]").train[:]
    assert records.train[:10] != records.test[:]
    streamed = load("[train:30,test:10,seed:0]", streaming=True)
    assert list(streamed.train()) == list(records.train) and streamed.test[:] == records.test[:]
    alone = load("[train:12,split:train]")
    assert len(alone.train) == 12 and alone.test is None
    whole = load()
    assert (len(whole.train), len(whole.test)) == (2000, 200)


@pytest.mark.parametrize(
    ("text", "error", "phrase"),
    [
        ("example:txt", ConfigError, r'"example:txt" is not one of example:text, example:tables.*Did you mean "text"'),
        ("example:text[train:5%]", ConfigError, "rows are made as asked for; give train as a number of rows"),
        ("example:text[split:dev]", DataError, 'has splits: train, test; no "dev"'),
        ("example:tables[name:esay]", ConfigError, r'name must be one of .*; got "esay".*Did you mean "easy"'),
    ],
)
def test_examples_that_are_none(
    text: str, error: type[Exception], phrase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXAMPLE_NAMES, "tables", ("", "easy", "hard"))
    with pytest.raises(error, match=phrase):
        _load(text)
