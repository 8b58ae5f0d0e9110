"""The canvas as text: what is shown for given, masked, fresh and written tokens, and how lines are broken."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from unmask.cli.canvas_view import (
    STYLES,
    CanvasState,
    Look,
    can_animate,
    glyphs,
    harmless,
    mask_for,
    pieces,
    render,
    watch,
)
from unmask.generation.trace import Commit

WORDS = ["The", " cat", " sat", "\n", "<end>", " 猫", " down"]
LOOK = Look(lambda ids: "".join(WORDS[index] for index in ids), frozenset({4}))


def commit(step: int, tokens: dict[int, int], row: int = 0, sure: float = 0.9, remasked=()) -> Commit:
    return Commit(row, step, 0, tuple(tokens), tuple(tokens.values()), (sure,) * len(tokens), remasked)


def styles(text) -> list[tuple[str, str]]:
    return [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]


def merged(text) -> dict[str, str]:
    """Style -> the characters that carry it."""
    found: dict[str, str] = {}
    for part, style in styles(text):
        found[style] = found.get(style, "") + part
    return found


class Bytes:
    """A byte-level tokenizer: every byte is a token, so a letter may span several."""

    def __init__(self) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        self.tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = decoders.ByteLevel()

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def look(self) -> Look:
        return Look(self.tokenizer.decode)


class FakeStream:
    """Commits in a list, over a canvas."""

    def __init__(self, rows: list[list[int | None]], events: list[Commit]) -> None:
        self.rows, self.events = rows, events

    def __iter__(self):
        return iter(self.events)

    def canvas(self, row: int = 0) -> list[int | None]:
        return self.rows[row]


def test_each_kind_of_token_has_its_look() -> None:
    start = CanvasState.start([0, None, None, None])
    assert render(start, LOOK, 40).plain == "The░░░░░░"
    sure = start.after(commit(0, {1: 1}))
    unsure = sure.after(commit(1, {2: 2}, sure=0.2))
    assert merged(render(sure, LOOK, 40)) == {
        STYLES["given"]: "The",
        STYLES["fresh"]: " cat",
        STYLES["masked"]: "░░░░",
    }
    later = merged(render(unsure, LOOK, 40))
    assert later[STYLES["unsure"]] == " sat"
    assert render(unsure, LOOK, 40).plain == "The cat sat░░"
    assert " cat" not in "".join(part for style, part in later.items() if style)


def test_a_row_may_grow() -> None:
    start = CanvasState.start([0, None])
    grown = start.after(Commit(0, 0, 0, (3,), (2,), (1.0,), remasked=(1, 2)))
    assert grown.token_ids == (0, None, None, 2) and (grown.written, grown.masked) == (3, 2)


def test_colours_tell_the_age_or_how_probable_a_token_was() -> None:
    state = CanvasState.start([0, None, None, None])
    for step, (place, token, sure) in enumerate(((1, 1, 0.95), (2, 2, 0.6), (3, 6, 0.2))):
        state = state.aged().after(commit(step, {place: token}, sure=sure))
    by_age = merged(render(state.aged(2), LOOK, 40))
    # written 4, 3 and 2 steps ago
    assert by_age[STYLES["recent"]] == " sat down"
    by_chance = merged(render(state.aged(9), replace(LOOK, colors="confidence"), 40))
    assert (by_chance[STYLES["sure"]], by_chance[STYLES["likely"]]) == (" cat", " sat")
    assert by_chance[STYLES["unlikely"]] == " down"
    assert merged(render(state.aged(9), LOOK, 40)).keys() == {STYLES["given"]}


def test_remasked_and_special_tokens() -> None:
    state = CanvasState.start([0, None, None]).after(commit(0, {1: 1, 2: 4}))
    assert render(state, LOOK, 40).plain == "The cat·"
    assert render(state.after(commit(1, {}, remasked=(1,))), LOOK, 40).plain == "The░░·"


def test_the_prompt_can_be_left_out() -> None:
    state = CanvasState.start([0, 1, None], first=2).after(commit(0, {2: 6}))
    assert render(state, LOOK, 40).plain == " down"


def test_a_newline_token_breaks_the_line() -> None:
    assert render(CanvasState.start([0, 3, 1]), LOOK, 40).plain == "The\n cat"


@pytest.mark.parametrize("width", [2, 3, 5, 8, 13, 40])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(width: int) -> None:
    state = CanvasState.start([0, 1, None, None, 5, 2, None, 6, 1, 5, 5, None, None, None])
    plain = render(state, LOOK, width).plain
    assert max(cell_len(line) for line in plain.split("\n")) <= width
    assert "".join(plain.split()) == "Thecat░░░░猫satdowncat猫猫".replace("satdown", "sat░░down") + "░░" * 3


def test_words_are_kept_whole_where_they_fit() -> None:
    assert render(CanvasState.start([0, 1, 2, 6]), LOOK, 10).plain.split("\n") == ["The cat ", "sat down"]


def test_letters_of_several_tokens_appear_when_complete() -> None:
    tokenizer = Bytes()
    text = "né 猫 🙂"
    ids = tokenizer.ids(text)
    assert len(ids) > len(text)
    assert "".join(pieces(ids, tokenizer.look().decode)) == text
    assert "�" not in render(CanvasState.start(ids), tokenizer.look(), 40).plain


def test_an_unfinished_letter_before_a_mask_is_one_sign() -> None:
    tokenizer = Bytes()
    first, *rest = tokenizer.ids("猫")
    state = CanvasState.start([first, None, None])
    assert render(state, tokenizer.look(), 40).plain == "�░░░░"
    done = state.after(commit(0, {1: rest[0], 2: rest[1]}))
    assert render(done, tokenizer.look(), 40).plain == "猫"


def test_a_model_cannot_move_the_cursor() -> None:
    look = Look(lambda ids: "".join(chr(index) for index in ids))
    shown = "".join(glyph.text for glyph in glyphs(CanvasState.start([27, ord("["), 7, 13, 9, 0x9B, 0x202E, 65]), look))
    assert shown == "�[�� ��A"
    assert harmless("é") == "é" and harmless("\n") == "\n"


def test_a_tall_canvas_shows_the_lines_being_written() -> None:
    tokens: list[int | None] = [0] * 100
    tokens[60] = None
    state = CanvasState.start(tokens).after(commit(0, {60: 1}))
    whole, cropped = render(state, LOOK, 12).plain.split("\n"), render(state, LOOK, 12, 5).plain.split("\n")
    assert len(whole) > 20
    assert len(cropped) == 5
    assert any("cat" in line for line in cropped)


def test_elsewhere_than_on_a_terminal_a_few_frames_are_printed() -> None:
    events = [commit(step, {1 + step: 1 + step % 2}) for step in range(40)]
    out = io.StringIO()
    watch(FakeStream([[0, *[None] * 40]], events), LOOK, Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert lines[0] == "-- step 0, 0/40 tokens" and lines[-2] == "-- step 40, 40/40 tokens"
    assert lines[1] == "The" + "░░" * 40
    assert lines[-1] == "The" + " cat sat" * 20
    assert 4 <= len(lines) // 2 <= 7


def test_the_last_frame_is_printed_when_a_stop_token_leaves_masks() -> None:
    out = io.StringIO()
    watch(FakeStream([[0, None, None, None]], [commit(0, {1: 4})]), LOOK, Console(file=out, width=80))
    assert out.getvalue().splitlines()[-2:] == ["-- step 1, 1/3 tokens", "The·░░░░"]


def test_on_a_terminal_the_canvas_is_drawn_over_itself(monkeypatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = io.StringIO()
    terminal = Console(
        file=out, width=40, height=12, force_terminal=True, color_system="standard", legacy_windows=False
    )
    stream = FakeStream([[0, None, None], [0, None]], [commit(0, {1: 1}), commit(0, {1: 2}, row=1), commit(1, {2: 6})])
    watch(stream, LOOK, terminal, firsts=(0, 0), keep=True)
    drawn = out.getvalue()
    assert "\x1b[1A" in drawn and "\x1b7" not in drawn and "\x1b[s" not in drawn
    assert "3/3 tokens" in drawn and "step 2" in drawn


def test_no_color_forbids_the_animation(monkeypatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert can_animate(terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not can_animate(terminal)
    assert not can_animate(Console(file=io.StringIO()))


def test_a_terminal_without_blocks_gets_underscores() -> None:
    ascii_only = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=80)
    assert mask_for(ascii_only) == "_"
    stream = FakeStream([[0, None]], [commit(0, {1: 1})])
    watch(stream, LOOK, ascii_only)
