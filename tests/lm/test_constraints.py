from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.tiny import write_checkpoint
from unmask.cli.main import main
from unmask.errors import ConfigError, ResourceError
from unmask.generation.automaton import Automaton
from unmask.generation.options import GenerationOptions
from unmask.lm import DiffusionLM, constraints, load
from unmask.lm.constraints import byte_automaton, token_automaton, token_bytes

pytest.importorskip("outlines_core", reason="the extra `grammar` is not installed")

TABLE = "| city | country |\n| --- | --- |\n| Oslo | Norway |\n| Rome | Italy |\n"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "size": {"type": "integer"},
        "kind": {"enum": ["port", "hill"]},
    },
    "required": ["city", "size", "kind"],
}


@pytest.fixture(scope="module")
def base() -> DiffusionLM:
    return load("example:base", device="cpu")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> DiffusionLM:
    return load(write_checkpoint(tmp_path_factory.mktemp("lm") / "model"), device="cpu")


def accepts(automaton: Automaton, tokens: Sequence[int]) -> bool:
    state = 0
    for token in tokens:
        state = int(automaton.next_QC[state, automaton.class_V[token]]) if state >= 0 else -1
    return state in automaton.finals


@pytest.mark.parametrize(
    "regex",
    [
        "a|ab",
        "|a",
        "aba|a",
        "(ab?|b)+",
        "[^a]*",
        ".é?",
        "a{2,3}b?",
        "(?i)A+",
        "é|\n",
        "(a|é)*b",
        "[]b]+",
        r"\[?a\)?",
        "(?s).*",
    ],
)
def test_token_sequences_are_accepted_as_python_matches_their_text(regex: str) -> None:
    pieces = [b"a", b"b", "é".encode(), "é".encode()[:1], "é".encode()[1:], b"\n", b"ab", b"ba", b"", b"]", b"[", b")"]
    automaton = token_automaton(*byte_automaton(regex), pieces)
    for length in range(4):
        for tokens in itertools.product(range(len(pieces)), repeat=length):
            written = b"".join(pieces[token] for token in tokens)
            try:
                matches = re.fullmatch(regex, written.decode()) is not None
            except UnicodeDecodeError:
                matches = False
            # a token without text is in no text
            assert accepts(automaton, tokens) == (matches and 8 not in tokens), (regex, tokens)


def test_long_strings_of_a_schema_are_few_states() -> None:
    # as outlines-core reads it by itself, states would be searched for in 2 ** 60 places
    options = GenerationOptions.of(json_schema={"type": "string", "maxLength": 60})
    table, finals = byte_automaton(constraints.asked_regex(options) or "")
    assert len(table) < 1000 and len(finals) == 1


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "format": "date"}, '"1987-10-07"', '"٧٧٧٧-10-07"'),
        ({"type": "string", "pattern": r"^[\d.]+\w$"}, '"3.1_"', '"3.1é"'),
        ({"type": "string", "pattern": r"^\W\D$"}, '"é٧"', '"_7"'),
        ({"enum": [r"a\d", r"\w"]}, r'"a\\d"', '"a7"'),
    ],
)
def test_classes_of_a_schema_are_those_of_ecma(schema: dict[str, Any], right: str, wrong: str) -> None:
    regex = constraints.asked_regex(GenerationOptions(json_schema=json.dumps(schema)))
    automaton = token_automaton(*byte_automaton(str(regex)), [bytes([byte]) for byte in range(256)])
    assert accepts(automaton, list(right.encode())) and not accepts(automaton, list(wrong.encode()))


def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama's: words begin with a bar, bytes that no token has are tokens of their own."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁yes", "y", "es", "é", "▁▁"]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_bytes_of_tokens_are_what_they_decode_to(base: DiffusionLM) -> None:
    for tokenizer in (base.tokenizer, sentence_piece()):
        pieces = token_bytes(tokenizer)
        assert all(not pieces[number] for number in tokenizer.all_special_ids)
        number_of = torch.Generator().manual_seed(0)
        for _ in range(200):
            ids = torch.randint(len(pieces), (6,), generator=number_of).tolist()
            ids = [number for number in ids if pieces[number]]
            text = b"".join(pieces[number] for number in ids)
            if b"\xef\xbf\xbd" in text.decode(errors="replace").encode():
                continue  # what is no text is decoded in several ways
            assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text.decode()


def test_other_tokenizers_are_refused() -> None:
    words = Tokenizer(models.WordLevel({"yes": 0, "no": 1, "?": 2}, "?"))
    words.decoder = decoders.WordPiece()
    with pytest.raises(ConfigError, match="need a tokenizer of bytes or of SentencePiece's kind.*by WordPiece"):
        token_bytes(PreTrainedTokenizerFast(tokenizer_object=words))


@pytest.mark.parametrize("strategy", ["confidence", "threshold", "revoke", "edit", "random", "slow_fast"])
def test_json_is_what_its_schema_says(strategy: str, base: DiffusionLM) -> None:
    settings = {"max_new_tokens": 48, "block_size": 16, "steps": 24, "strategy": strategy, "threshold": 0.5}
    for row in base.generate([TABLE, "", "Rome"], json_schema=SCHEMA, temperature=1.0, **settings):
        found = json.loads(row.text)
        assert list(found) == ["city", "size", "kind"] and row.finish_reason in ("stop", "length")
        assert isinstance(found["city"], str) and len(found["city"]) <= 10
        assert type(found["size"]) is int and found["kind"] in ("port", "hill")


def test_every_way_to_write_stays_in_the_language(base: DiffusionLM, lm: DiffusionLM) -> None:
    settings: dict[str, Any] = {
        "max_new_tokens": 12,
        "block_size": 4,
        "steps": 12,
        "regex": " (Norway|Italy|[a-z]{2,9})!?",
    }
    ways: list[dict[str, Any]] = [{"cache": name} for name in ("none", "prefix", "dual", "verify", "interval")]
    ways += [
        {"guidance_scale": 1.0},
        {"attention": "block_causal"},
        {"speculate": 2},
        {"top_k": 1},
        {"temperature": 2.0},
    ]
    prompts = [f"{TABLE} Oslo lies in", "Oslo"]
    for way in ways:
        for row in base.generate(prompts, **settings, **way):
            assert re.fullmatch(settings["regex"], row.text), (way, row.text)
    many = dict(base.generate_many(prompts, batch_size=1, **settings))
    assert [many[0].text, many[1].text] == [row.text for row in base.generate(prompts, **settings)]
    assert lm.generate("x", regex="(yes|no)", max_new_tokens=9)[0].text in ("yes", "no")
    steps = [event.token_ids for event in lm.stream("x", regex="yes", max_new_tokens=9)]
    assert len(steps) == 1 and len(steps[0]) == 9


def test_blanks_are_texts_of_the_language(base: DiffusionLM) -> None:
    (row,) = base.infill(f"{TABLE} Oslo lies in[MASK:1-8].", regex=" (Norway|Italy)")
    assert row.written[0] in (" Norway", " Italy")
    # each stretch by itself: four letters in four tokens, two in two
    (row,) = base.infill("a[MASK][MASK][MASK][MASK] b[MASK:2] c", regex="(?:[xyz]{2}){1,2}", temperature=1.0)
    assert re.fullmatch("a[xyz]{4} b[xyz]{2} c", row.text)
    with pytest.raises(ConfigError, match="no text of the grammar has exactly 9 tokens"):
        base.infill("a[MASK:9] b", regex="(yes|no)")


def test_automata_are_kept(lm: DiffusionLM) -> None:
    kept = constraints.Constraints(lm.tokenizer)
    options = [GenerationOptions(regex=f"a{{{count}}}") for count in range(1, 12)]
    made = [kept.automaton(one) for one in options]
    assert kept.automaton(options[-1]) is made[-1] and kept.automaton(options[0]) is not made[0]
    assert kept.automaton(GenerationOptions()) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"regex": "a("}, "cannot be used .*bracket.* Rust's regex"),
        ({"regex": "a)(b"}, "bracket is not closed, or closed twice"),
        ({"regex": "a(?=b)"}, "without look-around"),
        ({"regex": "^a"}, "no text matches it"),
        ({"regex": "[^\\s\\S]"}, "no text matches it"),
        ({"json_schema": '{"type": '}, "json_schema is no JSON: Expecting value at line 1"),
        ({"json_schema": {"type": "foo"}}, "json_schema cannot be used: Unsupported type: foo"),
        ({"json_schema": "nowhere.json"}, "nowhere.json cannot be read"),
    ],
)
def test_what_cannot_be_used_is_said(asked: dict[str, Any], message: str, lm: DiffusionLM) -> None:
    with pytest.raises(ConfigError, match=message):
        lm.generate("x", max_new_tokens=4, **asked)


def test_tokens_that_write_no_text_of_it_are_told() -> None:
    with pytest.raises(ConfigError, match="no text of the regex or json_schema can be written"):
        token_automaton(*byte_automaton("ab"), [b"a", b"c"])


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch, lm: DiffusionLM) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(constraints, "import_module", absent)
    with pytest.raises(ResourceError, match=r"pip install \"unmask\[grammar\]\""):
        lm.generate("x", regex="never asked before")


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "example:base", "--max_new_tokens", "40"]
    assert main(["generate", *model, "--json", "--regex", "-?[0-9]{2}", "A"]) == 0
    assert re.fullmatch("-?[0-9]{2}", json.loads(capsys.readouterr().out)["results"][0]["text"])
    schema, rows, out = tmp_path / "schema.json", tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    schema.write_text(json.dumps(SCHEMA))
    rows.write_text('{"prompt": "A"}\n{"prompt": "B"}\n')
    filed = ["generate", *model, "--json_schema", str(schema), "--input", str(rows), "--output", str(out)]
    assert main(filed) == 0
    assert all(
        json.loads(json.loads(line)["text"])["kind"] in ("port", "hill") for line in out.read_text().splitlines()
    )
    # another schema in the same file is another run
    schema.write_text('{"type": "integer"}')
    capsys.readouterr()
    assert main(filed) == 2 and "json_schema" in capsys.readouterr().err
    assert main(["infill", "--model", "example:base", "--regex", " [ab]{3}", "x[MASK:4] y"]) == 0
    assert re.match("x [ab]{3} y", capsys.readouterr().out)
    assert main(["generate", *model, "--json_schema", "nowhere.json", "A"]) == 2
    assert "nowhere.json cannot be read" in capsys.readouterr().err
    for text, message in (("[1]", "schema.json holds no JSON object"), ("", "schema.json is no JSON (Expecting value")):
        schema.write_text(text)
        assert main(["generate", *model, "--json_schema", str(schema), "A"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("wrong", "message"), [("[0-9", "a bracket is not closed"), ("[0-9]{9}", "give max_new_tok")])
def test_a_mistake_does_not_claim_the_output(
    wrong: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text('{"prompt": "A"}\n')
    filed = ["generate", "--model", "example:base", "--max_new_tokens", "4", "--input", str(rows), "--output", str(out)]
    assert main([*filed, "--regex", wrong]) == 2
    assert message in capsys.readouterr().err.lower()
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl"}
    assert main([*filed, "--regex", "[0-9]"]) == 0


def test_an_automaton_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"32,7\d\d states; at most 10,000 .* Write it narrower"):
        byte_automaton("(a|b)*a(a|b){14}")
