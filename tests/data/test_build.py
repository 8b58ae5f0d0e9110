"""From settings to tokenised sets: columns, notes, refusals, and that processes and streaming change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from unmask.data.build import build_pretrain, build_sft, tokenised
from unmask.data.sources.named import open_sources
from unmask.errors import ConfigError, DataError
from unmask.training.arguments import DataArguments

Write = Callable[..., Path]
MASK = object()


def _pairs(count: int, answer: str = "the answer is {}") -> list[dict[str, str]]:
    return [{"user": f"how much is {number}?", "assistant": answer.format(number)} for number in range(count)]


def _sft(tokenizer: Any, path: Any, **options: Any) -> Any:
    return build_sft(DataArguments(dataset_args=str(path), **options), tokenizer)


def _pretrain(tokenizer: Any, path: Any, **options: Any) -> Any:
    return build_pretrain(DataArguments(dataset_args=str(path), **options), tokenizer)


def _learned(row: dict[str, Any], tokenizer: Any) -> str:
    pairs = zip(row["input_ids"], row["may_noise"], strict=True)
    return tokenizer.decode([token for token, flag in pairs if flag])


def test_columns_of_a_fine_tuning_set(write: Write, bpe_tokenizer: Any) -> None:
    splits = _sft(bpe_tokenizer, f"{write('a.jsonl', _pairs(10))}[test:2]")
    for part, count in ((splits.train, 8), (splits.test, 2)):
        assert {name: str(feature.feature.dtype) for name, feature in part.features.items()} == {
            "input_ids": "int32",
            "may_noise": "bool",
        }
        assert len(part) == count
    assert splits.notes == []
    learned = {_learned(row, bpe_tokenizer) for part in (splits.train, splits.test) for row in part}
    assert learned == {f"the answer is {number}<|im_end|>" for number in range(10)}


def test_columns_of_a_pretraining_set(write: Write, bpe_tokenizer: Any) -> None:
    path = write("a.txt", "<|endoftext|>".join(["hello there"] * 50))
    splits = _pretrain(bpe_tokenizer, f"{path}[test:10]", max_length=16)
    for part in (splits.train, splits.test):
        assert {name: str(feature.feature.dtype) for name, feature in part.features.items()} == {
            "input_ids": "int32",
            "document": "int32",
        }
        assert {len(row["input_ids"]) for row in part} == {16}
    assert bpe_tokenizer.decode(splits.train[0]["input_ids"]).startswith("hello there</s>hello there</s>")
    tokens = len(bpe_tokenizer("hello there")["input_ids"])
    assert splits.notes[0].startswith(
        f"train: 40 documents, {40 * tokens} tokens, packed into {len(splits.train)} rows"
    )


@pytest.mark.parametrize("build", [_sft, _pretrain])
def test_processes_change_nothing(write: Write, bpe_tokenizer: Any, build: Any) -> None:
    rows = _pairs(2300) if build is _sft else [{"text": "hello there " * (number % 7)} for number in range(2300)]
    path = write("a.jsonl", rows)
    one, two = (build(bpe_tokenizer, f"{path}[test:100]", max_length=64, num_proc=number) for number in (1, 2))
    assert one.train[:] == two.train[:]
    assert one.test[:] == two.test[:]
    assert one.notes == two.notes


@pytest.mark.parametrize("build", [_sft, _pretrain])
def test_streaming_changes_nothing(write: Write, bpe_tokenizer: Any, build: Any) -> None:
    rows = _pairs(250) if build is _sft else [{"text": "hello there " * (number % 7)} for number in range(250)]
    path = write("a.jsonl", rows)
    table = build(bpe_tokenizer, path, max_length=48)
    stream = build(bpe_tokenizer, path, max_length=48, streaming=True)
    assert list(stream.train) == list(stream.train) == list(table.train)
    tested = build(bpe_tokenizer, f"{path}[test:50]", max_length=48, streaming=True)
    assert isinstance(tested.test, Dataset) and len(tested.test)


def test_hub_data_is_streamed_by_default_in_pretraining_only(monkeypatch: Any, bpe_tokenizer: Any) -> None:
    asked = []

    def load(path: str, name: str | None, *, streaming: bool) -> Any:
        asked.append(streaming)
        rows = [{"text": "hello there " * 9, "user": "q", "assistant": "a"}]
        table = Dataset.from_list(rows * 9)
        return {"train": table.to_iterable_dataset()} if streaming else DatasetDict({"train": table})

    monkeypatch.setattr("unmask.data.sources.hub.load_dataset", load)
    _pretrain(bpe_tokenizer, "x/y", max_length=8)
    _pretrain(bpe_tokenizer, "x/y", max_length=8, streaming=False)
    _sft(bpe_tokenizer, "x/y")
    build_pretrain(DataArguments("x/y", max_length=8), bpe_tokenizer, stream_hub_by_default=False)
    assert asked == [True, False, False, False]


def test_a_few_hub_rows_for_evaluation_are_streamed_where_the_run_streams(monkeypatch: Any, bpe_tokenizer: Any) -> None:
    asked = {}

    def load(path: str, name: str | None, *, streaming: bool) -> Any:
        asked[path] = streaming
        table = Dataset.from_list([{"text": f"hello there {path} " * 9}] * 9)
        return {"train": table.to_iterable_dataset()} if streaming else DatasetDict({"train": table})

    monkeypatch.setattr("unmask.data.sources.hub.load_dataset", load)
    for evaluated in ("x/few[test:2]", "x/all"):
        splits = _pretrain(bpe_tokenizer, "x/train[test:1]", eval_dataset_args=evaluated, max_length=16)
        assert evaluated.split("[")[0] in bpe_tokenizer.decode(splits.test[0]["input_ids"])
    assert asked == {"x/train": True, "x/few": True, "x/all": False}


def test_several_datasets_are_joined(write: Write, bpe_tokenizer: Any) -> None:
    one, two = write("a.jsonl", _pairs(6)), write("b.json", json.dumps([{"instruction": "x", "output": "y"}] * 4))
    splits = _sft(bpe_tokenizer, f"{one}[test:2]+{two}[train:3]")
    assert (len(splits.train), len(splits.test)) == (7, 2)


def test_evaluation_data_replaces_the_test_part(write: Write, bpe_tokenizer: Any) -> None:
    path, other = write("a.jsonl", _pairs(10)), write("b.jsonl", _pairs(5, "hello {}"))
    splits = _sft(bpe_tokenizer, f"{path}[test:2]", eval_dataset_args=str(other))
    assert {_learned(row, bpe_tokenizer)[:5] for row in splits.test} == {"hello"} and len(splits.test) == 5
    assert (len(splits.train), splits.notes) == (8, [])
    part = _sft(bpe_tokenizer, path, eval_dataset_args=f"{other}[test:2]")
    assert (len(part.train), len(part.test)) == (10, 2)


def test_evaluating_on_the_training_file_is_said(write: Write, bpe_tokenizer: Any) -> None:
    path, copy = write("a.jsonl", _pairs(10)), write("b.jsonl", _pairs(10))
    for other in (path, copy):
        (note,) = _sft(bpe_tokenizer, path, eval_dataset_args=str(other)).notes
        assert note.startswith("warning: eval file equals train file (same sha256)")


def test_long_conversations_are_cut_and_counted(write: Write, byte_tokenizer: Any) -> None:
    path = write("a.jsonl", [*_pairs(7), *_pairs(3, "x" * 200)])
    splits = _sft(byte_tokenizer, path, max_length=100)
    assert len(splits.train) == 10 and max(map(len, splits.train["input_ids"])) == 100
    assert splits.notes == ["train: 3 of 10 records exceed max_length=100 and are cut at the right"]
    kept = _sft(byte_tokenizer, path, max_length=100, truncation="filter")
    assert len(kept.train) == 7
    assert kept.notes == ["train: 3 of 10 records exceed max_length=100 and are left out (truncation filter)"]


def test_conversations_whose_prompt_fills_the_row_are_left_out_and_counted(write: Write, byte_tokenizer: Any) -> None:
    path = write("a.jsonl", [*_pairs(7), *({"user": "x" * 200, "assistant": "y"} for _ in range(3))])
    splits = _sft(byte_tokenizer, path, max_length=100)
    assert len(splits.train) == 7
    assert splits.notes[1] == "train: 3 of 10 conversations left out: no token to learn within max_length=100"


def test_when_most_are_too_long_the_median_is_told(write: Write, byte_tokenizer: Any) -> None:
    path = write("a.jsonl", [*_pairs(2), *_pairs(3, "x" * 200)])
    (note,) = _sft(byte_tokenizer, path, max_length=100).notes
    assert note.startswith(
        "warning: train: 3 of 5 records exceed max_length=100 and are cut at the right; median length 2"
    )


@pytest.mark.parametrize("truncation", ["right", "filter"])
def test_nothing_left_to_learn_is_an_error(write: Write, byte_tokenizer: Any, truncation: str) -> None:
    path = write("a.jsonl", _pairs(5))
    with pytest.raises(DataError, match=r"no trainable token: 5 of 5 records exceed max_length=10 .* Raise max_length"):
        _sft(byte_tokenizer, path, max_length=10, truncation=truncation)


def test_the_mask_token_in_the_data_is_refused(write: Write, bpe_tokenizer: Any) -> None:
    rows = [*_pairs(2), {"user": "what is <|mask|>?", "assistant": "x"}, *_pairs(1)]
    phrase = r'a\.jsonl:3 contains the mask token "<\|mask\|>"; the model would see it as noise'
    path = write("a.jsonl", rows)
    for number in (1, 2):
        with pytest.raises(DataError, match=phrase):
            _sft(bpe_tokenizer, path, num_proc=number)
    with pytest.raises(DataError, match=phrase):
        list(_sft(bpe_tokenizer, path, streaming=True).train)
    splits = _sft(bpe_tokenizer, path, skip_bad_rows=True)
    assert len(splits.train) == 3 and "1 of 4 rows skipped" in splits.notes[0] and "a.jsonl:3" in splits.notes[0]
    text = write("b.txt", "hello <|mask|>")
    with pytest.raises(DataError, match=r"b\.txt:1 contains the mask token"):
        _pretrain(bpe_tokenizer, text)
    with pytest.raises(DataError, match=r"b\.txt:1 contains the mask token"):
        list(_pretrain(bpe_tokenizer, text, streaming=True).train)


def test_a_corpus_shorter_than_a_row(write: Write, bpe_tokenizer: Any) -> None:
    path = write("a.txt", "hello there")
    with pytest.raises(DataError, match=r"train part holds \d tokens in 1 documents: not one row of max_length=1,024"):
        _pretrain(bpe_tokenizer, path)
    assert len(_pretrain(bpe_tokenizer, path, drop_tail=False).train) == 1
    with pytest.raises(DataError, match="0 tokens in 0 documents"):
        _pretrain(bpe_tokenizer, write("b.jsonl", [{"text": ""}]), drop_tail=False)


def test_packing_leaves_documents_whole(write: Write, bpe_tokenizer: Any) -> None:
    texts = ["hello there", "the answer is the answer " * 4, "", "hello"]
    path = write("a.jsonl", [{"text": text} for text in texts])
    splits = _pretrain(bpe_tokenizer, path, packing=True, max_length=8)
    eos = bpe_tokenizer.eos_token_id
    expected = []
    for text in filter(None, texts):
        ids = [*bpe_tokenizer(text, add_special_tokens=False)["input_ids"], eos]
        expected += [ids[start : start + 8] for start in range(0, len(ids), 8)]
    assert splits.train["input_ids"][:] == expected
    assert f"in {len(expected)} pieces of at most 8" in splits.notes[-1]
    streamed = _pretrain(bpe_tokenizer, path, packing=True, max_length=8, streaming=True).train
    assert [row["input_ids"] for row in streamed] == expected


def test_a_short_test_part_keeps_its_tail(write: Write, bpe_tokenizer: Any) -> None:
    path = write("a.jsonl", [{"text": "hello there " * 20}] * 9)
    splits = _pretrain(bpe_tokenizer, f"{path}[test:1]", max_length=256)
    assert len(splits.test) == 1 and len(splits.test[0]["input_ids"]) < 256


def test_settings_that_contradict(write: Write, bpe_tokenizer: Any) -> None:
    path = write("a.jsonl", _pairs(3))
    with pytest.raises(ConfigError, match="no dataset: give dataset_args"):
        build_sft(DataArguments(), bpe_tokenizer)
    with pytest.raises(DataError, match="load_preprocessed_data reads a folder"):
        _sft(bpe_tokenizer, path, load_preprocessed_data=True)


@pytest.mark.parametrize("named", ["labels", "prompt_len", "may_noise"])
def test_tokenised_rows_are_used_as_they_are(tmp_path: Path, bpe_tokenizer: Any, named: str) -> None:
    ids, start = [15, 16, 17, 18, 19], 3
    extra = {
        "labels": [-100] * start + ids[start:],
        "prompt_len": start,
        "may_noise": [False] * start + [True] * 2,
    }[named]
    Dataset.from_list([{"input_ids": ids, named: extra, "text": "x"}] * 6).save_to_disk(tmp_path / "d")
    splits = _sft(bpe_tokenizer, f"{tmp_path}/d[train:4,test:2]", load_preprocessed_data=True)
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.train[0] == {"input_ids": ids, "may_noise": [False] * 3 + [True] * 2}
    assert "train: 4 rows hold input_ids and are used as they are" in splits.notes
    everything = _sft(bpe_tokenizer, tmp_path / "d", load_preprocessed_data=True, mask_prompt_loss=False)
    assert all(everything.train[0]["may_noise"])
    cut = _sft(bpe_tokenizer, tmp_path / "d", load_preprocessed_data=True, max_length=4)
    assert cut.train[0] == {"input_ids": ids[:4], "may_noise": [False] * 3 + [True]}


@pytest.mark.parametrize(
    ("row", "phrase"),
    [
        ({"input_ids": [5, 6]}, r"have no labels and no prompt_len \(found: input_ids\)"),
        ({"input_ids": [5, 6], "labels": [-100, 7]}, r"row 1 labels\[1\] is 7, but input_ids\[1\] is 6"),
        ({"input_ids": [5, 6], "labels": [6]}, r"has 2 input_ids but 1 labels"),
        ({"input_ids": [5, 99_999], "prompt_len": 1}, r"holds the id 99999, but the tokenizer has"),
        ({"input_ids": [5, MASK], "prompt_len": 1}, r"contains the mask token \(id \d+\); the model would see it"),
        ({"input_ids": [5, 6], "prompt_len": 2}, r"no trainable token"),
    ],
)
def test_tokenised_rows_that_cannot_be_used(tmp_path: Path, bpe_tokenizer: Any, row: Any, phrase: str) -> None:
    row = {**row, "input_ids": [bpe_tokenizer.mask_token_id if id is MASK else id for id in row["input_ids"]]}
    Dataset.from_list([row]).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=phrase):
        _sft(bpe_tokenizer, tmp_path / "d", load_preprocessed_data=True)


def test_preprocessed_rows_with_text_or_messages_are_tokenised(tmp_path: Path, bpe_tokenizer: Any) -> None:
    Dataset.from_list([{"text": "hello there " * 9}] * 5).save_to_disk(tmp_path / "text")
    from_folder = _pretrain(bpe_tokenizer, tmp_path / "text", load_preprocessed_data=True, max_length=16)
    assert from_folder.train.column_names == ["input_ids", "document"]
    Dataset.from_list(_pairs(5)).save_to_disk(tmp_path / "pairs")
    splits = _sft(bpe_tokenizer, tmp_path / "pairs", load_preprocessed_data=True)
    assert _learned(splits.train[0], bpe_tokenizer) == "the answer is 0<|im_end|>"


def test_packed_rows_are_used_as_they_are(tmp_path: Path, bpe_tokenizer: Any) -> None:
    rows = [{"input_ids": [5, 6, 7], "document": [0, 0, 1]}] * 4
    Dataset.from_list(rows).save_to_disk(tmp_path / "d")
    splits = _pretrain(bpe_tokenizer, tmp_path / "d", load_preprocessed_data=True, max_length=3)
    assert list(splits.train) == rows
    with pytest.raises(DataError, match="row 1 has 3 tokens; max_length is 2"):
        _pretrain(bpe_tokenizer, tmp_path / "d", load_preprocessed_data=True, max_length=2)


def test_real_conversations(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "data/tokenizers/minimind_6400")
    path = shared / "data/table_sft_sample/table_messages_120.jsonl"
    splits = _sft(tokenizer, path, max_length=100_000)
    answers = [json.loads(line)["messages"][-1]["content"] + "<|im_end|>" for line in path.open()]
    assert [_learned(row, tokenizer) for row in splits.train] == answers


def test_real_text(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "data/tokenizers/gpt2")
    path = shared / "data/text_c4/c4_demo.jsonl"
    splits = _pretrain(tokenizer, path, max_length=256, drop_tail=False)
    documents = [json.loads(line)["text"] + "<|endoftext|>" for line in path.open()]
    stream = [token for row in splits.train for token in row["input_ids"]]
    assert tokenizer.decode(stream) == "".join(documents)


# Rows held out


def _held_out(tokenizer: Any, text: Any, mode: Any = "sft", **options: Any) -> Any:
    data = DataArguments(dataset_args=str(text), **options)
    return tokenised(open_sources(data, mode, hold_out=True), data, tokenizer, mode)


def test_one_per_cent_is_held_out_where_nothing_is_for_evaluation(write: Write, byte_tokenizer: Any) -> None:
    path = write("a.jsonl", _pairs(300))
    splits = _held_out(byte_tokenizer, path)
    assert (len(splits.train), len(splits.test)) == (297, 3)
    assert splits.notes[0] == f"no rows are named for evaluation, so 1 % is held out: {path}[test:1%]"
    rows = {tuple(row["input_ids"]) for row in splits.train}
    assert not rows & {tuple(row["input_ids"]) for row in splits.test}


def test_nothing_is_held_out_where_rows_are_for_evaluation(write: Write, tmp_path: Path, byte_tokenizer: Any) -> None:
    path, other = write("a.jsonl", _pairs(300)), write("b.jsonl", _pairs(5, "hello {}"))
    assert len(_held_out(byte_tokenizer, f"{path}[test:7]").test) == 7
    assert len(_held_out(byte_tokenizer, path, eval_dataset_args=str(other)).train) == 300
    # One dataset with rows for evaluation is enough.
    both = _held_out(byte_tokenizer, f"{path}+{other}[test:2]")
    assert (len(both.train), len(both.test)) == (303, 2)
    write("d/train.jsonl", _pairs(300))
    write("d/test.jsonl", _pairs(4))
    assert len(_held_out(byte_tokenizer, tmp_path / "d").test) == 4
    assert len(_held_out(byte_tokenizer, "example:tables[train:20,test:3]").test) == 3


@pytest.mark.parametrize("folder", [False, True])
def test_of_a_stream_the_first_rows_are_held_out(
    write: Write, tmp_path: Path, byte_tokenizer: Any, folder: bool
) -> None:
    path: Any = write("d/train.jsonl", _pairs(250))
    if folder:
        write("d/test.jsonl", _pairs(150, "hello {}"))
        path = tmp_path / "d"
    splits = _held_out(byte_tokenizer, path, streaming=True)
    assert len(splits.test) == 100 and "so the first 100 rows are held out" in splits.notes[0]
    assert len(list(splits.train)) == (250 if folder else 150)
    assert _learned(splits.test[0], byte_tokenizer) == ("hello 0" if folder else "the answer is 0") + "<|im_end|>"


# Streams


@pytest.mark.parametrize("truncation", ["right", "filter"])
def test_what_a_stream_cuts_or_leaves_out_is_counted(
    write: Write, byte_tokenizer: Any, truncation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    long = {"user": "x" * 300, "assistant": "y"}
    path = write("a.jsonl", [*_pairs(5), *_pairs(3, "z" * 200), long, long])
    table = _sft(byte_tokenizer, path, truncation=truncation, max_length=120)
    stream = _sft(byte_tokenizer, path, truncation=truncation, max_length=120, streaming=True)
    assert list(stream.train) == list(table.train) and len(table.train) == (5 if truncation == "filter" else 8)
    assert "5 of 10 exceed max_length=120" in caplog.text
    assert ("2 of 10 have no token to learn" in caplog.text) == (truncation == "right")
    with pytest.raises(DataError, match=r"holds 10 records, but no row has a token to learn within max_length=8"):
        list(_sft(byte_tokenizer, path, max_length=8, streaming=True).train)
    with pytest.raises(DataError, match=r"holds 1 records, but no row of tokens comes of it; .* max_length=1,024"):
        list(_pretrain(byte_tokenizer, write("a.txt", "hello"), streaming=True).train)
