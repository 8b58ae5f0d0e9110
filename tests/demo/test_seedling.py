"""What the demo starts from: tables kept apart, a tokenizer that loses nothing, a yardstick that is right."""

from __future__ import annotations

import json
import math

import pytest

from unmask.data.yardstick import unigram_nats
from unmask.demo.seedling import (
    DataFiles,
    Size,
    documents,
    read_rows,
    train_tokenizer,
    write_base,
    write_data,
)
from unmask.models.facts import read_facts
from unmask.models.tokenizers import load_tokenizer

SIZE = Size(texts=200, facts=30, questions=100, test_rows=20, vocab_size=512)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataFiles:
    return write_data(tmp_path_factory.mktemp("data"), SIZE, seed=3)


@pytest.fixture(scope="module")
def tokenizer(data):
    return train_tokenizer(data, SIZE)


def test_files_hold_what_they_should_and_repeat(data, tmp_path) -> None:
    assert [len(read_rows(path)) for path in (data.texts, data.texts_test)] == [230, 20]
    assert [len(read_rows(path)) for path in (data.questions, data.questions_test)] == [100, 20]
    train, test = ({row["table_id"] for row in read_rows(path)} for path in (data.questions, data.questions_test))
    assert not train & test
    assert not {row["text"] for row in read_rows(data.texts)} & {row["text"] for row in read_rows(data.texts_test)}
    again = write_data(tmp_path, SIZE, seed=3)
    assert again.texts.read_bytes() == data.texts.read_bytes()
    assert write_data(tmp_path, SIZE, seed=4).texts.read_bytes() != data.texts.read_bytes()


def test_the_tokenizer_loses_nothing(data, tokenizer) -> None:
    for text in [row["text"] for row in read_rows(data.texts_test)] + ["naïve 猫 🙂\n| a | 1 |"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 512
    assert len(tokenizer("1234")["input_ids"]) == 4


def test_the_base_is_a_llada_without_weights(tokenizer, tmp_path) -> None:
    write_base(tmp_path, tokenizer, SIZE)
    facts = read_facts(tmp_path)
    assert facts.family.name == "llada" and facts.shape.vocab_size == len(tokenizer)
    loaded = load_tokenizer(tmp_path, facts)
    assert loaded.mask_token == "<|mdm_mask|>" and loaded.mask_token_id == tokenizer.mask_token_id
    assert json.loads((tmp_path / "config.json").read_text())["mask_token_id"] == tokenizer.mask_token_id
    ids = loaded.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, return_dict=False)
    names = loaded.convert_ids_to_tokens(ids)
    assert names[0] == "<|startoftext|>" and names.count("<|start_header_id|>") == 2 and "<|eot_id|>" in names


def test_documents_end(data, tokenizer) -> None:
    found = documents(tokenizer, data.texts_test)
    assert len(found) == 20
    assert all(ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1] for ids in found)


def test_counting_words_costs_their_entropy() -> None:
    # Two tokens, one in four is the rare one: 0.5623 nats (Cover and Thomas, H(1/4) = 0.8113 bits).
    train = [[0, 0, 0, 1]] * 100_000
    assert unigram_nats(train, [[0, 0, 0, 1]], 2) == pytest.approx(0.8113 * math.log(2), abs=1e-3)
    assert unigram_nats([[]], [[0, 1, 2]], 8) == pytest.approx(math.log(8))


def test_counting_fits_best_what_was_counted(data, tokenizer) -> None:
    seen, unseen = documents(tokenizer, data.texts), documents(tokenizer, data.texts_test)
    size = len(tokenizer)
    # Gibbs: no other frequencies describe the counted tokens better than their own.
    assert unigram_nats(seen, seen, size) < unigram_nats(unseen, seen, size) < math.log(size)
    assert unigram_nats(seen, unseen, size) < math.log(size)
