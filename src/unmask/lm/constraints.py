"""A regular expression or a JSON schema -> the automaton of its texts over the tokens of a tokenizer. Knows no model.

outlines-core makes a regular expression of a schema, and an automaton over bytes of that. Here the bytes of each token
are followed through it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from unmask.errors import ConfigError, ResourceError
from unmask.generation.automaton import Automaton
from unmask.generation.options import GenerationOptions

# automata kept; states looked at together
_KEPT, _TOGETHER = 8, 64
# states of an automaton over bytes; 30,000 took a minute with a vocabulary of 2,000
MOST_STATES = 10_000
_BYTES = 256
_ECMA = {"d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]"}


class Constraints:
    """Makes the automata of a tokenizer, and keeps the last ones.

    Args:
        tokenizer: a fast tokenizer whose tokens are pieces of text: byte-level, or of SentencePiece's kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._pieces: list[bytes] = []
        self._made: dict[str, Automaton] = {}

    def automaton(self, options: GenerationOptions) -> Automaton | None:
        """The automaton of what the options ask for; None: they ask for nothing.

        Raises:
            ConfigError: the expression or the schema cannot be read, or no text of it can be written.
            ResourceError: outlines-core is not installed.
        """
        regex = asked_regex(options)
        if regex is None:
            return None
        if regex not in self._made:
            self._pieces = self._pieces or token_bytes(self._tokenizer)
            table, finals = byte_automaton(regex)
            while len(self._made) >= _KEPT:
                self._made.pop(next(iter(self._made)))
            self._made[regex] = token_automaton(table, finals, self._pieces)
        return self._made[regex]


def asked_regex(options: GenerationOptions) -> str | None:
    """The regular expression that the options ask for, or that of their schema.

    Raises:
        ConfigError: the schema cannot be read or used.
        ResourceError: outlines-core is not installed.
    """
    if options.json_schema is None:
        return options.regex
    schema = _schema_text(options.json_schema)
    try:
        return _ascii_classes(_outlines().json_schema.build_regex_from_schema(schema))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"json_schema cannot be used: {' '.join(str(error).split())} It must describe values by type, enum, const, "
            "properties, items, anyOf, allOf, pattern or $ref."
        ) from None


def _ascii_classes(regex: str) -> str:
    r"""The expression of a schema with `\d` and `\w` as JSON Schema means them (ECMA-262); Rust has every script's."""
    return re.sub(r"\\(.)", lambda found: _ECMA.get(found[1], found[0]), regex, flags=re.DOTALL)


def _schema_text(given: str) -> str:
    """The text of a schema that is given as such, or as the name of a file."""
    text, where = given, "json_schema"
    if not given.lstrip().startswith("{"):
        where = given
        try:
            text = Path(given).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise ConfigError(
                f"json_schema: {given} cannot be read ({error}). Name a file, or give a schema."
            ) from None
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    return text


def byte_automaton(regex: str) -> tuple[np.ndarray, list[int]]:
    """A deterministic automaton over bytes: int32 `[Q + 1, 256]`, state 0 the start and state Q dead; and its finals.

    Raises:
        ConfigError: outlines-core cannot read the expression, or it describes nothing.
        ResourceError: outlines-core is not installed.
    """
    outlines = _outlines()
    letters = {bytes([byte]): [byte] for byte in range(_BYTES)}
    vocabulary = outlines.Vocabulary(_BYTES + 1, {**letters, b"___": [_BYTES]})
    try:
        if not _is_closed(regex):
            raise ValueError("a bracket is not closed, or closed twice")
        # outlines-core searches as regex crates do: it gives up `ab` of `a|ab` once `a` matches, which \z prevents, and
        # prepares for matches that begin anywhere, with exponentially many states. Here these end at the second branch,
        # which matches what is before it; what is described begins behind three letters.
        index = outlines.Index(f"_(?:__(?:{regex})\\z|)", vocabulary)
    except ValueError as error:
        reason = "no text matches it" if "incompatible" in str(error) else " ".join(str(error).split())
        raise ConfigError(
            f"regex {regex!r} cannot be used ({reason}). It is written as for Rust's regex, "
            "without look-around, back-references, ^, $ and \\b: it always describes the whole text."
        ) from None
    transitions: dict[int, dict[int, int]] = index.get_transitions()
    if len(transitions) > MOST_STATES:
        raise ConfigError(
            f"regex {_short(regex)} needs an automaton of {len(transitions):,} states; at most {MOST_STATES:,} are "
            "allowed. Write it narrower: fewer repetitions, or [a-z] instead of \\w, which has letters of every script."
        )
    start = transitions[index.get_initial_state()][_BYTES]
    number, open_states = {start: 0}, [start]
    rows: dict[int, dict[int, int]] = {}
    while open_states:
        state = open_states.pop()
        rows[state] = {byte: after for byte, after in transitions.get(state, {}).items() if byte < _BYTES}
        for after in rows[state].values():
            if after not in number:
                number[after] = len(number)
                open_states.append(after)
    table = np.full((len(number) + 1, _BYTES), len(number), dtype=np.int32)
    for state, row in rows.items():
        for byte, after in row.items():
            table[number[state], byte] = number[after]
    return table, sorted(number[state] for state in index.get_final_states() if state in number)


def _short(regex: str) -> str:
    return repr(regex if len(regex) <= 60 else f"{regex[:57]}...")


def _is_closed(regex: str) -> bool:
    """Whether no bracket closes what the expression did not open."""
    depth, in_class, place = 0, 0, 0
    while place < len(regex):
        letter = regex[place]
        if letter == "\\":
            place += 1
        elif letter == "[":
            in_class += 1
            # a bracket that begins a class is a letter of it
            place += 2 if regex.startswith("^]", place + 1) else regex.startswith("]", place + 1)
        elif in_class:
            in_class -= letter == "]"
        else:
            depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return False
        place += 1
    return depth == 0 and in_class == 0


def token_automaton(table: np.ndarray, finals: Sequence[int], pieces: Sequence[bytes]) -> Automaton:
    """The automaton over tokens that `byte_automaton` means; a token without bytes is in no text.

    Raises:
        ConfigError: no text can be written with these tokens.
    """
    dead = len(table) - 1
    # bytes that the automaton does not tell apart make tokens that it does not tell apart
    columns, byte_class = np.unique(table, axis=1, return_inverse=True)
    translation = byte_class.reshape(-1).astype(np.uint8).tobytes()
    same: dict[bytes, int] = {}
    kind_V = np.array([same.setdefault(piece.translate(translation), len(same)) for piece in pieces])
    words = _Words(columns, list(same))
    labels = np.zeros(len(same), dtype=np.int64)
    for chunk in words.chunks(np.arange(dead), len(same)):
        rows = np.ascontiguousarray(np.concatenate([labels.astype(chunk.dtype)[None], chunk]).T)
        seen: dict[bytes, int] = {}
        keys = rows.view(f"V{rows.dtype.itemsize * rows.shape[1]}").reshape(-1).tolist()
        labels = np.array([seen.setdefault(key, len(seen)) for key in keys])
    kinds, first = np.unique(labels, return_index=True)
    few = _Words(columns, [list(same)[place] for place in first])
    next_QC = np.concatenate(list(few.chunks(np.arange(dead), len(kinds)))).astype(np.int64)
    next_QC[next_QC == dead] = -1
    automaton = Automaton(torch.from_numpy(next_QC), torch.from_numpy(labels[kind_V]), tuple(finals))
    if automaton.paths((), ()).shortest() is None:
        raise ConfigError("no text of the regex or json_schema can be written with the tokens of this tokenizer.")
    return automaton


class _Words:
    """Sequences of byte classes, followed through an automaton over these.

    Args:
        table: int32 `[Q + 1, byte classes]`, the last state dead.
        words: the sequences.
    """

    def __init__(self, table: np.ndarray, words: Sequence[bytes]) -> None:
        self._table = table
        self._length = np.array([len(word) for word in words])
        longest = max(map(len, words), default=0)
        joined = b"".join(word.ljust(longest, b"\0") for word in words)
        self._letters = np.frombuffer(joined, dtype=np.uint8).reshape(len(words), longest)

    def chunks(self, states: np.ndarray, count: int) -> Iterator[np.ndarray]:
        """For some states at a time, the state after each word: int32 `[states, words]`."""
        for start in range(0, len(states), _TOGETHER):
            yield self._after(states[start : start + _TOGETHER], count)

    def _after(self, states: np.ndarray, count: int) -> np.ndarray:
        dead = len(self._table) - 1
        found = np.full((len(states), count), dead, dtype=np.int32)
        # an empty word is that of a token without text, and leads nowhere
        here = np.flatnonzero(self._length > 0)
        at = np.broadcast_to(states.astype(np.int32)[:, None], (len(states), len(here)))
        for place in range(self._letters.shape[1]):
            at = self._table[at, self._letters[here, place]]
            is_over = self._length[here] == place + 1
            found[:, here[is_over]] = at[:, is_over]
            is_left = ~is_over & (at != dead).any(0)
            here, at = here[is_left], at[:, is_left]
        return found


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """The bytes that each token id stands for in a text; empty: none, as for special tokens.

    Raises:
        ConfigError: the tokenizer's tokens are not simply pieces of text.
    """
    kinds = _decoder_kinds(tokenizer)
    read = _byte_level if "ByteLevel" in kinds else _sentence_piece if kinds & {"Metaspace", "ByteFallback"} else None
    if read is None:
        raise ConfigError(
            f"regex and json_schema need a tokenizer of bytes or of SentencePiece's kind; this one decodes by "
            f"{', '.join(sorted(kinds)) or 'nothing'}."
        )
    vocabulary = tokenizer.get_vocab()
    special = {*tokenizer.all_special_ids}
    special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    found = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        found[number] = b"" if number in special else read(token)
    return found


def _decoder_kinds(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return set()
    facts: dict[str, Any] = json.loads(decoder.__getstate__())
    return {facts["type"], *(part["type"] for part in facts.get("decoders", ()))}


def _alphabet() -> dict[str, int]:
    """Letter -> byte, as byte-level tokenizers write them: as itself where it can be seen, else as one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(_BYTES) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(_BYTES + place): byte for place, byte in enumerate(hidden)}


_LETTERS = _alphabet()


def _byte_level(token: str) -> bytes:
    if all(letter in _LETTERS for letter in token):
        return bytes(_LETTERS[letter] for letter in token)
    return token.encode()


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace("▁", " ").encode()


def _outlines() -> Any:
    try:
        return import_module("outlines_core")
    except ImportError:
        raise ResourceError(
            'regex and json_schema need outlines-core, not installed here. Install it: pip install "unmask[grammar]"'
        ) from None
