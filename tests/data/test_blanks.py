from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from unmask.data.blanks import Blank, blanked_ids, filled_text, read_blanks
from unmask.errors import ConfigError

WORDS = ("<mask>", "<s>", "Oslo", " lies", " in", " Norway", ".", "\n", " ", "A")


def _tokenizer(*, takes_space: bool) -> Any:
    """One that knows a few words with their space, and begins every text with `<s>`."""
    pieces = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="A"))
    pieces.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|[^A-Za-z]"), "isolated")
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    mask = AddedToken("<mask>", special=True, lstrip=takes_space, normalized=False)
    return PreTrainedTokenizerFast(tokenizer_object=pieces, mask_token=mask, bos_token="<s>")


def _read(text: str, *, takes_space: bool) -> tuple[list[str], tuple[str, ...]]:
    tokenizer = _tokenizer(takes_space=takes_space)
    blanked = read_blanks(text, tokenizer.mask_token)
    ids, pieces = blanked_ids(blanked, [blank.most for blank in blanked.blanks], tokenizer)
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


@pytest.mark.parametrize(
    ("text", "pieces", "blanks"),
    [
        ("a[MASK]b<mask>", ("a", "b", ""), (Blank(1, 1), Blank(1, 1))),
        ("a[MASK]<mask>[MASK]b", ("a", "b"), (Blank(3, 3),)),
        ("[MASK:4][MASK]!", ("", "!"), (Blank(5, 5),)),
        ("[MASK:1-8][MASK]", ("", "", ""), (Blank(1, 8), Blank(1, 1))),
        ("{name:8} [...] {} {x} [MASK:]", ("{name:8} [...] {} {x} [MASK:]",), ()),
    ],
)
def test_blanks_are_found(text: str, pieces: tuple[str, ...], blanks: tuple[Blank, ...]) -> None:
    found = read_blanks(text, "<mask>")
    assert (found.pieces, found.blanks) == (pieces, blanks)
    assert found.is_open == any(blank.least != blank.most for blank in blanks)


@pytest.mark.parametrize("near", ["[MASK:x]", "[MASK: 2]", "[MASK:1-]", "[MASK:-1]", "[MASK:1 - 8]", "[MASK:1-2-3]"])
@pytest.mark.parametrize("fields", [True, False])
def test_what_is_nearly_a_blank_is_named(near: str, fields: bool) -> None:
    with pytest.raises(ConfigError) as caught:
        read_blanks(f"A {near} b [MASK]", "<mask>", fields=fields)
    assert f'"{near}" in the text is no blank' in str(caught.value) and "[MASK:1-8]" in str(caught.value)


@pytest.mark.parametrize(
    ("near", "right"),
    [
        ("{b}", "{b:4}"),
        ("{b:x}", "{b:1-8}"),
        ("{b:}", "{b:4}"),
        ("{b: 4}", "{b:4}"),
        ("{b :4}", "{b:4}"),
        ("{b:1-}", "{b:4}"),
        ("{b:99999999999}", "{b:4}"),
        ("{first name:4}", "{first_name:4}"),
        ("{first-name:1-8}", "{first_name:1-8}"),
    ],
)
def test_what_is_nearly_a_field_is_named(near: str, right: str) -> None:
    text = f'{{"a": "{{a:2}}", "b": "{near}"}}'
    with pytest.raises(ConfigError) as caught:
        read_blanks(text, "<mask>", fields=True)
    assert f'"{near}" in the template is no field' in str(caught.value) and right in str(caught.value)
    # without fields it is text
    assert read_blanks(text, "<mask>").pieces == (text,)


def test_a_long_near_blank_is_told_in_short() -> None:
    with pytest.raises(ConfigError) as caught:
        read_blanks(f"[MASK:{'x' * 9_999}] [MASK]", "<mask>")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"b": 1, "c": [{}]}, "d": {"e": "f"}}',
        '{"a":{"b":2}}',
        '{\n  "a": 1\n}',
        "{} { } {1} {[MASK]} {...}",
        "{a: 1, b: {b:4}}",
    ],
)
def test_other_braces_of_a_template_are_text(text: str) -> None:
    found = read_blanks(f"{text} {{x:2}}", "<mask>", fields=True)
    assert "".join(found.pieces) == f"{text} ".replace("[MASK]", "").replace("{b:4}", "")


def test_a_template_is_json_with_fields() -> None:
    found = read_blanks('{"name": "{name:2}", "age": {age:1-3}, "x": {}}', "<mask>", fields=True)
    assert found.pieces == ('{"name": "', '", "age": ', ', "x": {}}')
    assert found.blanks == (Blank(2, 2, "name"), Blank(1, 3, "age"))
    side_by_side = read_blanks("{a:1}[MASK]{b:1}", "<mask>", fields=True)
    assert side_by_side.blanks == (Blank(1, 1, "a"), Blank(1, 1), Blank(1, 1, "b"))


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("[MASK:0]", "a blank of 0 to 0 tokens"),
        ("[MASK:8-1]", "the smaller number first"),
        ("[MASK:1-900]", "it has from 1 to 128 tokens"),
        ("{a:1} {a:2}", "two fields of one name: a, a"),
    ],
)
def test_blanks_that_cannot_be_written(text: str, phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        read_blanks(text, "<mask>", fields=True)


@pytest.mark.parametrize("takes_space", [True, False])
def test_a_blank_of_some_length_is_as_many_single_ones(takes_space: bool) -> None:
    assert _read("A in [MASK:3].", takes_space=takes_space) == _read(
        "A in [MASK][MASK][MASK].", takes_space=takes_space
    )
