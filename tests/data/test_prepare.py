"""Prepared data is what training would have made itself; it appears whole, goes on where it stopped, is never stale."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from datasets import Dataset, load_from_disk

import unmask.data.prepare as module
import unmask.data.scratch as scratch
from tests.data.conftest import CHATML, make_tokenizer
from unmask.data.build import build_pretrain, build_sft
from unmask.data.prepare import Target, cached_splits, prepare
from unmask.data.sources.named import open_sources
from unmask.data.tokenise import SFT_FEATURES
from unmask.data.writing import Format
from unmask.errors import ConfigError, DataError
from unmask.training.arguments import DataArguments, Settings
from unmask.training.recipe import recipe_of

Write = Callable[..., Path]


def _talks(count: int) -> list[dict[str, Any]]:
    """Conversations of one to three exchanges, so that answers are not all at the end."""
    return [
        {
            "messages": [
                {"role": role, "content": f"{role} {number} {turn}" * (number % 3 + 1)}
                for turn in range(number % 3 + 1)
                for role in ("user", "assistant")
            ]
        }
        for number in range(count)
    ]


def _texts(count: int) -> list[dict[str, Any]]:
    return [{"text": f"document {number} " * (number % 5)} for number in range(count)]


def _rows(part: Any) -> list[Any]:
    return list(part)


@pytest.mark.parametrize("to", get_args(Format))
@pytest.mark.parametrize("test", ["", "[test:7]"])
def test_fine_tuning_from_it_is_fine_tuning_from_the_source(
    write: Write, tmp_path: Path, byte_tokenizer: Any, to: Any, test: str
) -> None:
    data = DataArguments(f"{write('a.jsonl', _talks(40))}{test}", max_length=150)
    source = build_sft(data, byte_tokenizer)
    done = prepare(data, byte_tokenizer, "sft", Target(tmp_path / "out", to))
    assert done.counts["train"] == {"rows": len(source.train), "tokens": sum(map(len, source.train["input_ids"]))}
    prepared = DataArguments(str(tmp_path / "out"), max_length=150, load_preprocessed_data=True)
    again = build_sft(prepared, byte_tokenizer)
    assert _rows(again.train) == _rows(source.train)
    assert _rows(again.test or []) == _rows(source.test or []) and bool(again.test) == bool(test)
    assert _rows(build_sft(replace(prepared, streaming=True), byte_tokenizer).train) == _rows(source.train)


@pytest.mark.parametrize("to", get_args(Format))
@pytest.mark.parametrize("drop_tail", [True, False])
def test_pretraining_from_it_is_pretraining_from_the_source(
    write: Write, tmp_path: Path, byte_tokenizer: Any, to: Any, drop_tail: bool
) -> None:
    data = DataArguments(f"{write('a.jsonl', _texts(60))}[test:9]", max_length=48, drop_tail=drop_tail)
    source = build_pretrain(data, byte_tokenizer)
    prepare(data, byte_tokenizer, "pretrain", Target(tmp_path / "out", to))
    prepared = DataArguments(str(tmp_path / "out"), max_length=48, load_preprocessed_data=True)
    again = build_pretrain(prepared, byte_tokenizer)
    assert (_rows(again.train), _rows(again.test)) == (_rows(source.train), _rows(source.test))


@pytest.mark.parametrize(("overlap", "packing"), [(0, False), (7, False), (0, True)])
def test_an_index_says_where_documents_begin(
    write: Write, tmp_path: Path, byte_tokenizer: Any, overlap: int, packing: bool
) -> None:
    texts = [f"{number:03d} " * chance for number, chance in enumerate(random.Random(1).choices(range(40), k=90))]
    data = DataArguments(str(write("a.jsonl", [{"text": text} for text in texts])), max_length=48, packing=packing)
    prepare(data, byte_tokenizer, "pretrain", Target(tmp_path / "out", overlap=overlap))
    rows = load_from_disk(str(tmp_path / "out"))["input_ids"][:]
    index = Dataset.from_file(str(tmp_path / "out" / "documents-train.arrow"))
    begun = [byte_tokenizer.decode(rows[place["row"]][place["column"] :][:3]) for place in index]
    expected = [f"{number:03d}" for number, text in enumerate(texts) if text]
    assert len(begun) >= len(expected) - 1
    # the last row's edge may cut a number short
    assert [one for one in begun if len(one) == 3] == [e for e, b in zip(expected, begun, strict=False) if len(b) == 3]
    places = [(place["row"], place["column"]) for place in index]
    assert places == sorted(set(places)) and sum(len(one) == 3 for one in begun) > 60


def test_numpy_files_are_in_the_known_layout(write: Write, tmp_path: Path, byte_tokenizer: Any) -> None:
    path = write("a.json", json.dumps([{"user": "ab", "assistant": "c"}, {"user": "a", "assistant": "bcd"}]))
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    )
    prepare(DataArguments(str(path), max_length=6), tokenizer, "sft", Target(tmp_path / "out", "npy"))
    ids = np.load(tmp_path / "out" / "input_ids.npy")
    stop = tokenizer.eos_token_id
    letters = {letter: tokenizer.convert_tokens_to_ids(letter) for letter in "abcd"}
    expected = [[*(letters[x] for x in "abc"), stop, stop, stop], [*(letters[x] for x in "abcd"), stop, stop]]
    assert ids.dtype == np.int32 and ids.tolist() == expected
    assert np.load(tmp_path / "out" / "prompt_lengths.npy").tolist() == [2, 1]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "input_ids.npy",
        "lengths.npy",
        "prepared.json",
        "prompt_lengths.npy",
    ]


def test_neighbouring_rows_overlap(write: Write, tmp_path: Path, byte_tokenizer: Any) -> None:
    data = DataArguments(str(write("a.txt", "abcdefghijklmnopqrstuvwxyz")), max_length=8)
    prepare(data, byte_tokenizer, "pretrain", Target(tmp_path / "out", "npy", overlap=3))
    rows = np.load(tmp_path / "out" / "input_ids.npy")
    texts = [byte_tokenizer.decode(row.tolist()) for row in rows]
    assert texts == ["abcdefgh", "fghijklm", "klmnopqr", "pqrstuvw"]


def test_processes_change_nothing(write: Write, tmp_path: Path, byte_tokenizer: Any) -> None:
    path = write("a.jsonl", _talks(300))
    for number in (1, 2):
        data = DataArguments(str(path), num_proc=number)
        prepare(data, byte_tokenizer, "sft", Target(tmp_path / f"out{number}", "jsonl"))
    one, two = ((tmp_path / f"out{number}" / "train.jsonl").read_bytes() for number in (1, 2))
    assert one == two


def test_the_same_is_kept_and_anything_else_is_refused(write: Write, tmp_path: Path, byte_tokenizer: Any) -> None:
    path, out = write("a.jsonl", _talks(10)), tmp_path / "out"
    data = DataArguments(str(path))

    def run(data: DataArguments = data, **target: Any) -> Any:
        return prepare(data, byte_tokenizer, "sft", Target(out, **target))

    assert not run().kept
    before = (out / "prepared.json").stat().st_mtime_ns
    assert run().kept and run(replace(data, num_proc=2)).kept
    assert (out / "prepared.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"out holds other prepared data \(max_length: 1024 -> 99\)"):
        run(replace(data, max_length=99))
    with pytest.raises(ConfigError, match=r"to: arrow -> jsonl"):
        run(to="jsonl")
    assert not run(overwrite=True).kept and not run(to="jsonl", overwrite=True).kept
    path.write_text(path.read_text().replace("assistant 1 0", "assistant 2 0"))
    with pytest.raises(ConfigError, match=r"datasets: changed -> changed"):
        run(to="jsonl")
    write("other/mine.txt", "keep me")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"other is there and was not made by unmask prepare"):
            prepare(data, byte_tokenizer, "sft", Target(tmp_path / "other", overwrite=overwrite))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "other", "out"]


@pytest.mark.parametrize(
    ("change", "target", "phrase"),
    [
        ({"streaming": True}, {}, "streaming has no effect"),
        ({}, {"overlap": 3}, "overlap is for the rows of a corpus"),
    ],
)
def test_what_cannot_be_prepared(
    write: Write, tmp_path: Path, byte_tokenizer: Any, change: Any, target: Any, phrase: str
) -> None:
    data = DataArguments(str(write("a.jsonl", _talks(4))), **change)
    with pytest.raises(ConfigError, match=phrase):
        prepare(data, byte_tokenizer, "sft", Target(tmp_path / "out", **target))
    mixed = replace(DataArguments(f"{data.dataset_args}[weight:2]+{data.dataset_args}"))
    with pytest.raises(ConfigError, match="a weight belongs to a run"):
        prepare(mixed, byte_tokenizer, "sft", Target(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"overlap must be from 0 to max_length - 1 \(1023\); got 1024"):
        prepare(DataArguments(data.dataset_args), byte_tokenizer, "pretrain", Target(tmp_path / "out", overlap=1024))
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_where_nothing_is_asked_for(write: Write, tmp_path: Path, byte_tokenizer: Any) -> None:
    data = DataArguments(str(write("a.jsonl", _talks(5))))
    done = prepare(data, byte_tokenizer, "sft", Target(None))
    assert done.counts["train"]["rows"] == 5 and done.sample["input_ids"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_interrupted_work_goes_on(
    write: Write, tmp_path: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write("a.jsonl", _talks(30)), tmp_path / "out"
    monkeypatch.setattr("unmask.data.scratch.SHARD_ROWS", 7)
    done: list[int] = []
    mapped = scratch._mapped

    def interrupted(dataset: Dataset, *rest: Any) -> Dataset:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(len(dataset))
        return mapped(dataset, *rest)

    monkeypatch.setattr("unmask.data.scratch._mapped", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(DataArguments(str(path)), byte_tokenizer, "sft", Target(out, "jsonl"))
    assert not out.exists() and done == [7, 7, 7]
    done.clear()
    prepare(DataArguments(str(path)), byte_tokenizer, "sft", Target(out, "jsonl"))
    assert done == [7, 2]  # rows 21 to 29: those before them were done
    whole = build_sft(DataArguments(str(path)), byte_tokenizer)
    assert [json.loads(line) for line in (out / "train.jsonl").open()] == _rows(whole.train)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "out"]


def test_damaged_and_foreign_folders_are_refused(write: Write, tmp_path: Path, byte_tokenizer: Any) -> None:
    path, out = write("a.jsonl", _talks(10)), tmp_path / "out"
    prepare(DataArguments(str(path)), byte_tokenizer, "sft", Target(out))
    prepared = DataArguments(str(out), load_preprocessed_data=True)
    with pytest.raises(DataError, match="out was made with another tokenizer than the model's"):
        build_sft(prepared, make_tokenizer(CHATML, merges=True))
    # Another template gives the same ids their meaning, so tokens stay usable.
    assert len(build_sft(prepared, make_tokenizer(None)).train) == 10
    file = next(out.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"out/data-.*\.arrow is damaged or missing since it was prepared"):
        build_sft(prepared, byte_tokenizer)
    assert not prepare(DataArguments(str(path)), byte_tokenizer, "sft", Target(out)).kept
    assert len(build_sft(prepared, byte_tokenizer).train) == 10


# The cache of runs


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one whenever tokens are made rather than taken."""
    calls: list[str] = []
    tokenise = module.tokenised
    monkeypatch.setattr(
        module, "tokenised", lambda *rest, **options: calls.append("made") or tokenise(*rest, **options)
    )
    return calls


def _cached(data: DataArguments, tokenizer: Any, mode: Any = "sft", **options: Any) -> Any:
    return cached_splits(open_sources(data, mode), data, tokenizer, mode, **options)


def test_tokens_are_made_once(write: Write, cache: Path, made: list[str], byte_tokenizer: Any) -> None:
    data = DataArguments(f"{write('a.jsonl', _talks(20))}[test:3]", max_length=60)
    first, second = _cached(data, byte_tokenizer), _cached(data, byte_tokenizer)
    assert made == ["made"] and len(list(cache.glob("*/prepared.json"))) == 1
    assert (_rows(first.train), _rows(first.test)) == (_rows(second.train), _rows(second.test))
    plain = build_sft(data, byte_tokenizer)
    assert _rows(second.train) == _rows(plain.train) and first.notes == plain.notes
    assert second.notes[:-1] == plain.notes and "taken from an earlier run" in second.notes[-1]
    _cached(data, byte_tokenizer, overwrite=True)
    assert made == ["made"] * 2


def test_a_mixture_comes_back_from_the_cache(write: Write, cache: Path, made: list[str], byte_tokenizer: Any) -> None:
    one, two = write("a.jsonl", _talks(20)), write("b.jsonl", _talks(5))
    data = DataArguments(f"{one}[weight:2]+{two}")
    first, second = _cached(data, byte_tokenizer), _cached(data, byte_tokenizer)
    assert first.mixture and first.mixture == second.mixture and made == ["made"]
    assert _cached(replace(data, dataset_args=f"{one}[weight:3]+{two}"), byte_tokenizer).mixture != first.mixture


@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 61},
        {"truncation": "filter"},
        {"mask_prompt_loss": False},
        {"train_turns": "last"},
        {"skip_bad_rows": True},
    ],
)
def test_other_settings_make_other_tokens(
    write: Write, cache: Path, made: list[str], byte_tokenizer: Any, changes: Any
) -> None:
    data = DataArguments(str(write("a.jsonl", _talks(20))), max_length=60)
    _cached(data, byte_tokenizer)
    changed = replace(data, **changes)
    assert _rows(_cached(changed, byte_tokenizer).train) == _rows(build_sft(changed, byte_tokenizer).train)
    assert made == ["made"] * 2


def test_what_changes_tokens_is_never_taken_from_the_cache(
    write: Write, cache: Path, made: list[str], byte_tokenizer: Any
) -> None:
    path = write("a.jsonl", _talks(20))
    data = DataArguments(str(path))
    _cached(data, byte_tokenizer)
    stat, content = path.stat(), path.read_text()
    # A change that keeps size and time, another template, another vocabulary, another use.
    path.write_text(content.replace("user 4 0", "user 9 9"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = _cached(data, byte_tokenizer)
    assert path.stat().st_size == stat.st_size
    assert "user 9 9" in byte_tokenizer.decode(changed.train[4]["input_ids"])
    other = make_tokenizer(CHATML.replace("<|im_end|>", "<|user|>"))
    assert _rows(_cached(data, other).train) != _rows(changed.train)
    _cached(data, make_tokenizer(CHATML, merges=True))
    assert made == ["made"] * 4
    # Sequences shortened or padded by a call leave the tokenizer the same.
    byte_tokenizer(["a", "bc"], padding=True, truncation=True, max_length=8)
    _cached(data, byte_tokenizer)
    assert made == ["made"] * 4


def test_damage_and_other_obstacles_cost_a_repetition_only(
    write: Write, cache: Path, made: list[str], byte_tokenizer: Any
) -> None:
    data = DataArguments(str(write("a.jsonl", _talks(20))))
    expected = _rows(_cached(data, byte_tokenizer).train)
    file = next(cache.glob("*/*.arrow"))
    file.write_bytes(file.read_bytes()[:100])
    assert _rows(_cached(data, byte_tokenizer).train) == expected and made == ["made"] * 2
    # A killed writer leaves a draft, which is no entry.
    entry = next(folder for folder in cache.iterdir() if folder.is_dir())
    entry.rename(entry.with_name(f"{entry.name}.draft"))
    assert _rows(_cached(data, byte_tokenizer).train) == expected and made == ["made"] * 3
    shutil.rmtree(cache)
    cache.write_text("in the way")
    splits = _cached(data, byte_tokenizer)
    assert _rows(splits.train) == expected and "not kept for later runs" in splits.notes[-1]


def test_a_look_leaves_no_trace(write: Write, cache: Path, made: list[str], byte_tokenizer: Any) -> None:
    data = DataArguments(str(write("a.jsonl", _talks(5))))
    _cached(data, byte_tokenizer, write=False)
    assert not cache.exists()
    _cached(data, byte_tokenizer)
    before = sorted((str(file), file.stat().st_mtime_ns) for file in cache.rglob("*"))
    _cached(data, byte_tokenizer, write=False)
    assert sorted((str(file), file.stat().st_mtime_ns) for file in cache.rglob("*")) == before
    assert made == ["made"] * 2


def test_streams_are_not_cached(write: Write, cache: Path, byte_tokenizer: Any) -> None:
    data = DataArguments(str(write("a.jsonl", _talks(5))), streaming=True)
    assert len(_rows(_cached(data, byte_tokenizer).train)) == 5
    assert not cache.exists()


def test_rows_of_tokens_are_not_copied_into_the_cache(
    write: Write, tmp_path: Path, cache: Path, byte_tokenizer: Any
) -> None:
    prepare(DataArguments(str(write("a.jsonl", _talks(5)))), byte_tokenizer, "sft", Target(tmp_path / "out"))
    data = DataArguments(str(tmp_path / "out"), load_preprocessed_data=True)
    assert len(_cached(data, byte_tokenizer).train) == 5
    assert not cache.exists()


@pytest.mark.parametrize("mode", ["sft", "pretrain"])
def test_prepared_rows_are_not_written_a_second_time(
    write: Write, tmp_path: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    path = write("a.jsonl", _talks(30) if mode == "sft" else _texts(30))
    out, build = tmp_path / "out", build_sft if mode == "sft" else build_pretrain
    prepare(DataArguments(f"{path}[test:5]", max_length=60), byte_tokenizer, mode, Target(out))
    changes: list[Any] = []
    mapped = scratch._mapped
    monkeypatch.setattr(scratch, "_mapped", lambda *rest: changes.append(rest) or mapped(*rest))
    rows = build(DataArguments(str(out), max_length=60, load_preprocessed_data=True), byte_tokenizer).train
    assert not changes and rows.cache_files[0]["filename"].startswith(str(out))
    if mode == "sft":
        # What is to be cut is cut all the same.
        cut = build_sft(DataArguments(str(out), max_length=50, load_preprocessed_data=True), byte_tokenizer)
        assert max(map(len, cut.train["input_ids"])) == 50 and changes


@pytest.mark.parametrize(
    ("row", "phrase"),
    [
        ({"input_ids": [20, 99_999], "may_noise": [False, True]}, "row 2 holds the id 99999"),
        ({"input_ids": [20, -3], "may_noise": [False, True]}, "row 2 holds the id -3"),
        ({"input_ids": [20, 21], "may_noise": [True]}, "row 2 has 2 input_ids but 1 may_noise"),
        ({"input_ids": [], "may_noise": []}, 'row 2 "input_ids" is empty'),
        ({"input_ids": None, "may_noise": [True]}, 'row 2 "input_ids" is null'),
    ],
)
def test_rows_with_our_columns_are_checked(tmp_path: Path, byte_tokenizer: Any, row: Any, phrase: str) -> None:
    good = {"input_ids": [20, 21], "may_noise": [False, True]}
    for rows in ([good, row, good], [good, row]):
        Dataset.from_list(rows, features=SFT_FEATURES).save_to_disk(tmp_path / f"d{len(rows)}")
        with pytest.raises(DataError, match=phrase):
            build_sft(DataArguments(str(tmp_path / f"d{len(rows)}")), byte_tokenizer)
    mask = byte_tokenizer.mask_token_id
    Dataset.from_list([{**good, "input_ids": [20, mask]}], features=SFT_FEATURES).save_to_disk(tmp_path / "m")
    with pytest.raises(DataError, match="row 1 contains the mask token"):
        build_sft(DataArguments(str(tmp_path / "m")), byte_tokenizer)
    nothing = {"input_ids": [20, 21], "may_noise": [False, False]}
    Dataset.from_list([good, nothing], features=SFT_FEATURES).save_to_disk(tmp_path / "n")
    splits = build_sft(DataArguments(str(tmp_path / "n")), byte_tokenizer)
    assert len(splits.train) == 1 and "1 of 2 conversations left out" in splits.notes[-1]


def test_tokens_made_anew_are_no_other_run() -> None:
    anew = Settings(data=DataArguments("a.jsonl", overwrite_cache=True))
    assert recipe_of(anew, "sft") == recipe_of(Settings(data=DataArguments("a.jsonl")), "sft")
