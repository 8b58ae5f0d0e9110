"""The dataset grammar: round trip, what wins when a path looks like options, and what its errors say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.spec import DatasetSpec, parse_dataset_args
from unmask.errors import ConfigError

WORDS = st.text(alphabet="abcXYZ019_-./ é", min_size=1).map(str.strip).filter(bool)
ROWS = st.none() | st.integers(1, 10**9) | st.integers(1, 100).map(lambda percent: percent / 100)
SPECS = st.builds(
    DatasetSpec,
    path=WORDS,
    train=ROWS,
    test=ROWS,
    name=st.none() | WORDS,
    split=st.none() | WORDS,
    seed=st.none() | st.integers(0, 2**31),
    weight=st.just(1.0) | st.integers(1, 1000).map(lambda number: number / 8),
)


def nothing_exists(path: str) -> bool:
    return False


@given(st.lists(SPECS, min_size=1, max_size=3), st.sampled_from(["+", "|", " + "]))
def test_what_is_written_is_read_back(specs: list[DatasetSpec], joint: str) -> None:
    assert parse_dataset_args(joint.join(map(str, specs)), exists=nothing_exists) == specs


@given(st.text(max_size=40))
def test_any_text_gives_specs_or_a_sentence(text: str) -> None:
    try:
        assert parse_dataset_args(text, exists=nothing_exists)
    except ConfigError as problem:
        assert "Example:" in str(problem)


def test_commands_users_type() -> None:
    assert parse_dataset_args("allenai/tulu-3-sft-mixture[train:10_000,test:5%]") == [
        DatasetSpec("allenai/tulu-3-sft-mixture", train=10_000, test=0.05)
    ]
    assert parse_dataset_args("data/c4[train:1000_000, test:1000]|x/y[name:all,split:train_sft,seed:3]") == [
        DatasetSpec("data/c4", train=1_000_000, test=1000),
        DatasetSpec("x/y", name="all", split="train_sft", seed=3),
    ]


def test_a_path_that_exists_wins(tmp_path: Path) -> None:
    odd = tmp_path / "models[train:10,test:5]"
    odd.mkdir()
    both = tmp_path / "a+b=c.jsonl"
    both.touch()
    assert parse_dataset_args(str(odd)) == [DatasetSpec(str(odd))]
    assert parse_dataset_args(f"{odd}[train:3]") == [DatasetSpec(str(odd), train=3)]
    assert parse_dataset_args(f"{both}[test:1]+{odd}+x/y") == [
        DatasetSpec(str(both), test=1),
        DatasetSpec(str(odd)),
        DatasetSpec("x/y"),
    ]


def test_a_glob_may_end_in_brackets(tmp_path: Path) -> None:
    (tmp_path / "part1").touch()
    assert parse_dataset_args(f"{tmp_path}/part[0-9]") == [DatasetSpec(f"{tmp_path}/part[0-9]")]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("", "dataset_args is empty"),
        (" + ", "dataset_args is empty"),
        ("a+", 'nothing beside a "\\+"'),
        ("x[trian:5]", 'dataset "x\\[trian:5\\]": unknown key "trian".*Did you mean "train"\\?.*Example:'),
        ("x[train:many]", 'train must be a number of rows .*, got "many"'),
        ("x[train:1e3]", "train must be a number of rows"),
        ("x[train:-1]", "train must be a number of rows"),
        ("x[train:0]", 'train must be a number of rows above 0 .*, got "0"'),
        ("x[test:0]", "test must be a number of rows above 0"),
        ("x[train:5", "its brackets do not match"),
        ("x.jsonl]", "its brackets do not match"),
        ("x[seed:4294967296]", "seed must be a whole number from 0 to 4,294,967,295"),
        ("x[test:0%]", "test must be .* or a percentage"),
        ("x[test:101%]", "or a percentage"),
        ("x[train]", 'expected key:value, got "train"'),
        ("x[train:]", "expected key:value"),
        ("x[train:1,]", 'expected key:value, got ""'),
        ("x[train:1,train:2]", 'key "train" is given twice'),
        ("x[weight:0]", "weight must be a number above 0"),
        ("x[seed:one]", "seed must be a whole number"),
        ("[train:1]", "options but no name"),
    ],
)
def test_mistakes_are_named(text: str, phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        parse_dataset_args(text)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    specs = parse_dataset_args("~/a.jsonl[train:5]+b.jsonl", exists=lambda path: False)
    assert [spec.path for spec in specs] == ["/home/me/a.jsonl", "b.jsonl"]
