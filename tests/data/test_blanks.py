from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from unmask.data.blanks import blanked_ids, filled_text

WORDS = ("<mask>", "<s>", "Oslo", " lies", " in", " Norway", ".", "\n", " ", "A")


def _tokenizer(*, takes_space: bool) -> Any:
    """One that knows a few words with their space, and begins every text with `<s>`."""
    pieces = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="A"))
    pieces.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|[^A-Za-z]"), "isolated")
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    mask = AddedToken("<mask>", special=True, lstrip=takes_space, normalized=False)
    return PreTrainedTokenizerFast(tokenizer_object=pieces, mask_token=mask, bos_token="<s>")


def _read(text: str, *, takes_space: bool) -> tuple[list[str], tuple[str, ...]]:
    ids, pieces = blanked_ids(text, _tokenizer(takes_space=takes_space))
    return [WORDS[token] for token in ids], pieces


@pytest.mark.parametrize("blank", ["[MASK]", "<mask>"])
def test_the_space_before_a_blank_belongs_to_it_where_the_tokenizer_says_so(blank: str) -> None:
    text = f"Oslo lies in {blank}."
    taken = ["<s>", "Oslo", " lies", " in", "<mask>", "."]
    assert _read(text, takes_space=True) == (taken, ("Oslo lies in", "."))
    kept = ["<s>", "Oslo", " lies", " in", " ", "<mask>", "."]
    assert _read(text, takes_space=False) == (kept, ("Oslo lies in ", "."))
    assert _read(f"Oslo lies in{blank}.", takes_space=True)[0] == taken


def test_a_blank_takes_one_space_and_nothing_else() -> None:
    read, pieces = _read("A\n[MASK] lies in  [MASK] [MASK]\n", takes_space=True)
    assert read == ["<s>", "A", "\n", "<mask>", " lies", " in", " ", "<mask>", "<mask>", "\n"]
    assert pieces == ("A\n", " lies in ", "", "\n")
    assert _read("[MASK]", takes_space=True) == (["<s>", "<mask>"], ("", ""))


def test_filled_blanks_side_by_side_are_read_together() -> None:
    written = {(1, 2): "<b>", (3, 5): "<de>"}
    assert filled_text(("a", "c", "", "f"), [1, 3, 4], lambda first, last: written[first, last]) == "a<b>c<de>f"
    assert filled_text(("", ""), [0], lambda first, last: "x") == "x"
