"""A tokenizer gets its special tokens from the configuration first, then from its own files, then from the family."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.models.tiny import LLADA, on_meta, write_config
from unmask.errors import ModelError
from unmask.models.tokenizers import load_tokenizer, mask_token_id, stop_token_ids
from unmask.registry import FAMILIES

WORDS = [f"w{number}" for number in range(59)]
END, MASK = LLADA.eos_token, LLADA.mask_token
NO_FACTS = {"mask_token_id": ..., "eos_token_id": ...}


def make(folder: Path, words: list[str], config: dict | None = None, own: dict | None = None) -> Path:
    """A folder with a word-level tokenizer over `words`."""
    write_config(folder, **(config or {}))
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(own or {}))
    return folder


def refused(folder: Path, phrase: str) -> None:
    with pytest.raises(ModelError, match=phrase):
        load_tokenizer(folder)


def test_the_configuration_names_the_mask(tmp_path: Path):
    folder = make(
        tmp_path, [*WORDS, END, MASK, "own"], {"mask_token_id": 5, "eos_token_id": ...}, {"mask_token": "own"}
    )
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.mask_token_id, tokenizer.mask_token) == (5, "w5")


def test_else_the_tokenizer_does(tmp_path: Path):
    folder = make(tmp_path, [*WORDS, END, MASK, "own"], NO_FACTS, {"mask_token": "own"})
    assert load_tokenizer(folder).mask_token_id == 61


def test_else_the_familys_token_is_found(tmp_path: Path):
    assert load_tokenizer(make(tmp_path, [*WORDS, END, MASK], NO_FACTS)).mask_token_id == 60


def test_the_next_free_id_becomes_the_mask(tmp_path: Path):
    tokenizer = load_tokenizer(make(tmp_path, [*WORDS, END], {"mask_token_id": 60, "eos_token_id": ...}))
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == (MASK, 60, 61)
    assert tokenizer(f"w1 {MASK} w2")["input_ids"] == [1, 60, 2]


def test_a_mask_is_added_only_on_request(tmp_path: Path):
    folder = make(tmp_path, [*WORDS, END], NO_FACTS)
    refused(
        folder, 'no mask token, and config.json names none .*the family\'s is "<|mdm_mask|>", 126336. Add mask_token_id'
    )
    assert load_tokenizer(folder, add_mask_token=True).mask_token_id == 60


def test_no_mask_is_added_where_the_model_has_no_row_for_it(tmp_path: Path):
    words = [*WORDS, "a", "b", "c", "d", END]
    with pytest.raises(ModelError, match="has no mask token"):
        load_tokenizer(make(tmp_path, words, NO_FACTS), add_mask_token=True)


def test_a_mask_beyond_the_tokenizer(tmp_path: Path):
    refused(
        make(tmp_path, [*WORDS, END], {"eos_token_id": ...}),
        "mask_token_id is 63, but the tokenizer has only 60 ids. Set it to one of them, or to 60 to have",
    )


def test_a_mask_in_a_hole_of_the_vocabulary(tmp_path: Path):
    folder = make(tmp_path, WORDS, {"mask_token_id": 1, "eos_token_id": ...}, {"eos_token": "w0"})
    Tokenizer(models.WordLevel({"w0": 0, "w2": 2, "w4": 4}, unk_token="w0")).save(str(folder / "tokenizer.json"))
    refused(folder, "mask_token_id is 1, but the tokenizer gives its mask token the id None")


def test_the_familys_token_under_another_id(tmp_path: Path):
    folder = make(tmp_path, [*WORDS[:10], MASK, END], {"mask_token_id": 12, "eos_token_id": ...})
    refused(folder, "mask_token_id is 12, but the tokenizer gives its mask token the id 10")


@pytest.mark.parametrize(
    "declared, own, expected",
    [
        (3, {}, "w3"),
        ([4, 3], {}, "w4"),
        (3, {"eos_token": "w7"}, "w7"),
        (..., {}, END),
        ("x", {}, END),
        (-1, {}, END),
        (10**6, {}, END),
        (True, {}, END),
        ([], {}, END),
        ([[3]], {}, END),
    ],
)
def test_the_end_token(tmp_path: Path, declared: object, own: dict, expected: str):
    folder = make(tmp_path, [*WORDS, END, MASK], {"eos_token_id": declared, "mask_token_id": ...}, own)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token == expected == tokenizer.pad_token
    assert tokenizer.bos_token is None


def test_a_tokenizer_without_an_end(tmp_path: Path):
    refused(make(tmp_path, WORDS, NO_FACTS), "no end-of-text token. Set eos_token in tokenizer_config.json")


def test_own_padding_and_beginning_are_kept_and_the_familys_beginning_is_found(tmp_path: Path):
    own = load_tokenizer(make(tmp_path / "a", [*WORDS, END, MASK], NO_FACTS, {"pad_token": "w1", "bos_token": "w2"}))
    assert (own.pad_token_id, own.bos_token_id) == (1, 2)
    words = [*WORDS, END, MASK, LLADA.bos_token]
    assert load_tokenizer(make(tmp_path / "b", words, NO_FACTS)).bos_token_id == 61


def test_the_familys_chat_template_stands_in(tmp_path: Path):
    tokenizer = load_tokenizer(make(tmp_path, [*WORDS, END, MASK, LLADA.bos_token], NO_FACTS))
    talk = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yes"}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    turns = [
        f"<|start_header_id|>{turn['role']}<|end_header_id|>\n\n{turn['content'].strip()}<|eot_id|>" for turn in talk
    ]
    assert text == LLADA.bos_token + "".join(turns) + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def test_an_own_chat_template_is_kept(tmp_path: Path):
    tokenizer = load_tokenizer(make(tmp_path, [*WORDS, END, MASK], NO_FACTS, {"chat_template": "{{ 'mine' }}"}))
    assert tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False) == "mine"


def test_a_tokenizer_larger_than_the_model(tmp_path: Path):
    words = [*WORDS, END, MASK, *"abcd"]
    refused(make(tmp_path, words), "the tokenizer has 65 ids, the model only 64 rows. They do not belong together")


def test_a_smaller_one_is_fine(tmp_path: Path):
    assert len(load_tokenizer(make(tmp_path, [*WORDS[:5], END, MASK], NO_FACTS))) == 7


@pytest.mark.parametrize(
    "declared, expected",
    [
        (..., {59, 61}),
        (3, {3, 59, 61}),
        ([3, 4], {3, 4, 59, 61}),
        (["x", -1, 99, True, None, [1]], {59, 61}),
        ({}, {59, 61}),
    ],
)
def test_stop_ids(tmp_path: Path, declared: object, expected: set[int]):
    folder = make(
        tmp_path, [*WORDS, END, MASK, "<|eot_id|>"], {"eos_token_id": declared, "mask_token_id": 60}, {"eos_token": END}
    )
    config = json.loads((folder / "config.json").read_text())
    assert stop_token_ids(load_tokenizer(folder), on_meta(config)) == tuple(sorted(expected))


def test_the_mask_survives_saving(tmp_path: Path):
    tokenizer = load_tokenizer(make(tmp_path / "a", [*WORDS, END], {"mask_token_id": 60, "eos_token_id": ...}))
    tokenizer.save_pretrained(tmp_path / "b")
    write_config(tmp_path / "b", mask_token_id=..., eos_token_id=...)
    again = load_tokenizer(tmp_path / "b")
    assert (again.mask_token_id, again.eos_token_id, again.pad_token_id) == (60, 59, 59)
    assert again.chat_template == LLADA.chat_template


def test_code_named_by_the_tokenizer_is_not_followed(tmp_path: Path):
    own = {"auto_map": {"AutoTokenizer": ["evil_tokens.Evil", None]}, "tokenizer_class": "Evil", "mask_token": "w1"}
    folder = make(tmp_path, [*WORDS, END, MASK], NO_FACTS, own)
    (folder / "evil_tokens.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    assert load_tokenizer(folder).mask_token_id == 1
    assert not (tmp_path / "ran").exists() and not [name for name in sys.modules if "evil_tokens" in name]


def test_nor_where_there_is_no_tokenizer_file(tmp_path: Path):
    folder = make(tmp_path, WORDS, NO_FACTS, {"auto_map": {"AutoTokenizer": ["evil_tokens.Evil", None]}})
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    (folder / "evil_tokens.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    refused(folder, "the tokenizer cannot be read")
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_tokenizer(tmp_path: Path):
    refused(write_config(tmp_path), "holds no tokenizer .tokenizer.json.. Copy one there")


BROKEN = [
    "",
    "{",
    "{}",
    "[]",
    "null",
    "5",
    '{"version":"1.0"}',
    '{"added_tokens":[],"model":{"type":"evil"}}',
    '{"added_tokens": 5}',
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_tokenizer(tmp_path: Path, text: str):
    folder = make(tmp_path, [*WORDS, END, MASK], NO_FACTS)
    (folder / "tokenizer.json").write_text(text)
    refused(folder, "the tokenizer cannot be read: .*Download or copy it again")


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"eos_token": 5}', '{"extra_special_tokens": 5}'])
def test_a_broken_tokenizer_configuration(tmp_path: Path, text: str):
    folder = make(tmp_path, [*WORDS, END, MASK], NO_FACTS)
    (folder / "tokenizer_config.json").write_text(text)
    refused(folder, "the tokenizer cannot be read: .*Download or copy it again")


def test_an_autoregressive_model_has_no_mask():
    model: Any = SimpleNamespace(family=FAMILIES.get("qwen2"))
    tokenizer: Any = None
    with pytest.raises(ModelError, match="it can continue texts and score them, but not fill in blanks"):
        mask_token_id(tokenizer, model)
