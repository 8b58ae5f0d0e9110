"""A trace as a moving picture: what stands where after each step, and letters that a font lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmask.generation.player import Played, Recording, Vocabulary
from unmask.generation.trace import Commit, Trace

pytest.importorskip("PIL", reason="the extra `gif` is not installed")
from PIL import Image, ImageChops

from unmask.cli import trace_files, trace_fonts
from unmask.cli.trace_fonts import Fonts
from unmask.cli.trace_gif import Story, write_gif

MASK = 0
LETTERS = "_abcdefgh中\n"


def commit(step: int, written: dict[int, str], remasked: tuple[int, ...] = ()) -> Commit:
    ids = tuple(LETTERS.index(letter) for letter in written.values())
    return Commit(0, step, 0, tuple(written), ids, (0.5,) * len(ids), remasked)


def recording(given: str, commits: list[Commit]) -> Recording:
    ids = tuple(LETTERS.index(letter) for letter in given)
    masked = tuple(place for place, token in enumerate(ids) if token == MASK)
    vocabulary = Vocabulary(lambda ids: "".join(LETTERS[token] for token in ids), MASK, {MASK})
    return Recording([Played(Trace(ids, masked, tuple(commits)), given, "")], vocabulary)


def shown(told: Recording, step: int) -> str:
    data = told.to_dict()
    story = Story(data["rows"][0], data["tokens"])
    return "".join("_" if written is None else text for text, written in story.at(step))


def frames(told: Recording, file: Path) -> list[Image.Image]:
    write_gif(told, file)
    with Image.open(file) as picture:
        found = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            found.append(picture.convert("RGB"))
    return found


def is_same(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is None


def test_what_is_taken_back_is_masked_again(tmp_path: Path) -> None:
    told = recording("a__", [commit(0, {1: "b", 2: "c"}), commit(1, {}, (1,)), commit(2, {1: "b"})])
    assert [shown(told, step) for step in range(4)] == ["a__", "abc", "a_c", "abc"]
    pictures = frames(told, tmp_path / "t.gif")
    assert len(pictures) == 4 and not is_same(pictures[1], pictures[2]) and not is_same(pictures[0], pictures[2])


def test_what_is_replaced_stood_there_before(tmp_path: Path) -> None:
    told = recording("a_", [commit(0, {1: "b"}), commit(1, {1: "g"})])
    assert [shown(told, step) for step in range(3)] == ["a_", "ab", "ag"]
    before, after = frames(told, tmp_path / "t.gif"), frames(recording("a_", [commit(0, {1: "b"})]), tmp_path / "s.gif")
    # of the same colour: both are the first step's
    assert is_same(before[1], after[1]) and not is_same(before[1], before[2])


def test_masks_put_between_move_what_was_there(tmp_path: Path) -> None:
    # a row grown from 3 to 4 places: its second one is masked anew, and what stood there is one further on
    told = recording("a___", [commit(0, {1: "b", 2: "c"}), commit(0, {2: "b", 3: "c"}, (1,)), commit(1, {1: "d"})])
    assert [shown(told, step) for step in range(3)] == ["a___", "a_bc", "adbc"]
    assert len(frames(told, tmp_path / "t.gif")) == 3


def test_what_was_never_written_is_left_out() -> None:
    assert shown(recording("a__", [commit(0, {1: "b"})]), 1) == "ab"


def test_a_letter_without_a_font_is_spelled_out_and_told(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(trace_fonts, "installed", lambda letter: ["no-such-font.ttf"])
    fonts = Fonts(18)
    ((text, _),) = fonts.runs("a\U0010fffdb")
    assert text == r"a\U0010fffdb" and fonts.missing == {"\U0010fffd"}
    monkeypatch.setattr(trace_fonts, "_has", lambda font, letter: letter != "中")
    missing = write_gif(recording("a_", [commit(0, {1: "中"})]), tmp_path / "t.gif")
    assert missing == {"中"}
    trace_files._tell_missing("t.gif", missing)
    assert "no font here has 1 of its letters (中)" in (told := capsys.readouterr().err) and "t.html would show" in told


def test_another_font_of_the_machine_has_the_letter() -> None:
    fonts, letter = Fonts(18), "\N{MATHEMATICAL DOUBLE-STRUCK CAPITAL A}"
    if trace_fonts._has(fonts._fonts[0], letter) or trace_fonts._opened("DejaVuSans.ttf", 18) is None:
        pytest.skip("needs a machine with DejaVu Sans, and with a first font that lacks the letter")
    (first, one), (second, other), (third, again) = fonts.runs(f"a{letter}b")
    assert (first, second, third) == ("a", letter, "b") and other is not one is again
    assert fonts.length(f"a{letter}b") == one.getlength("a") + other.getlength(letter) + one.getlength("b")
    assert not fonts.missing
