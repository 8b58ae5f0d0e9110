"""The base's beginnings: a tokenizer that loses nothing and sees one value as one token wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmask.data.chat import encode_conversation, prompt_ids
from unmask.demo.base_files import write_configuration, write_tokenizer
from unmask.models.checkpoints import load_model
from unmask.models.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_tokenizer(folder)
    write_configuration(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(start: Path):
    return load_tokenizer(start)


@pytest.mark.parametrize(
    "text", ["Clara is 31.", " two  spaces\n\n", "| Clara | 31 |\n| Ben | 280 |", "naïve 汉字 123456 ½", "a<b> c_d"]
)
def test_text_comes_back_as_it_was(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("value", ["Clara", "Oslo", "31", "280", "doctor"])
def test_a_value_is_the_same_token_in_a_cell_a_sentence_and_an_answer(tokenizer, value: str) -> None:
    (token,) = tokenizer(f" {value}")["input_ids"]
    assert token in tokenizer(f"| {value} |")["input_ids"]
    assert token in tokenizer(f"She says {value}.")["input_ids"]
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": value}]
    encoded = encode_conversation(messages, tokenizer)
    learned = [id for id, may in zip(*encoded, strict=True) if may]
    assert learned == [token, tokenizer.convert_tokens_to_ids("<|eot|>")]
    assert encoded.input_ids[: -len(learned)] == prompt_ids(messages[:1], tokenizer)


def test_a_blank_takes_the_space_before_it(tokenizer) -> None:
    mask = tokenizer.mask_token
    blank, word = (tokenizer(f"Oslo lies in {word}.")["input_ids"] for word in (mask, "Norway"))
    assert [id if id != tokenizer.mask_token_id else None for id in blank] == [
        id if id != tokenizer(" Norway")["input_ids"][0] else None for id in word
    ]


def test_the_configuration_opens(start: Path) -> None:
    model = load_model(start, from_scratch=True)
    assert 1_000_000 < model.num_parameters() < 6_000_000  # 12 MB in bfloat16
    assert model.head.weight is model.trunk.embed.weight
