"""Tables as text: nothing in a cell breaks a row, what is written can be read, long tables lose their last rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.table_text import STYLES, read_table, serialise_rows, shorten
from unmask.errors import ConfigError

HEADER = ("name", "a|b", "")
ROWS = (("x", "1|2\n3", ""), ("back\\", "- | -", "  wide   gap "))
# text of cells as they are found: no control characters or odd spaces, which are for the next test
CELL = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=6).map(lambda text: text.strip())


def test_bars_and_line_breaks_stay_inside_their_cell() -> None:
    assert serialise_rows(HEADER, ROWS).split("\n") == [
        r"| name | a\|b |  |",
        "| --- | --- | --- |",
        r"| x | 1\|2 3 |  |",
        r"| back\ | - \| - | wide gap |",
    ]
    assert serialise_rows(("n",), (("a\nb",),), "tagged") == "[TAB] col: | n | [SEP] | a b |"


@pytest.mark.parametrize("style", STYLES)
@given(cells=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=4))
def test_what_is_written_can_be_read(style: str, cells: list[tuple[str, str]]) -> None:
    header, *rows = cells
    if style == "tagged" and not rows:
        return
    if any("[SEP]" in cell for row in cells for cell in row):
        return
    text = f"A title\n\n{serialise_rows(header, rows, style)}\n\nWhich | one?"  # type: ignore[arg-type]
    table = read_table(text)
    assert table is not None
    assert (table.before, table.header, list(table.rows), table.after) == (
        "A title\n\n",
        header,
        rows,
        "\n\nWhich | one?",
    )
    assert table.text() == text


def test_tagged_tables_of_others_are_read() -> None:
    table = read_table("== Task ==\n\n| a | b | [SEP] | 1 | 2 | [SEP] | 3 | 4 |\n\nHow many?")
    assert table is not None
    assert (table.header, table.rows, table.mark) == (("a", "b"), (("1", "2"), ("3", "4")), "")
    assert table.text(1) == "== Task ==\n\n| a | b | [SEP] | 1 | 2 |\n\nHow many?"


def test_text_without_a_table() -> None:
    assert read_table("Is a | b | c a table?\nNo.") is None


@pytest.mark.parametrize("style", STYLES)
def test_long_tables_lose_their_last_rows(style: str) -> None:
    rows = [(str(number), "x" * 10) for number in range(50)]
    text = serialise_rows(("n", "x"), rows, style) + "\n\nWhat is the first?"  # type: ignore[arg-type]
    limit = 300
    shorter = shorten(text, lambda text: len(text) <= limit)
    assert shorter is not None
    kept, lost = shorter
    table = read_table(kept)
    assert table is not None and list(table.rows) == rows[: 50 - lost]
    assert kept.endswith("\n\nWhat is the first?") and len(kept) <= limit
    one_more = len(serialise_rows(("n", "x"), rows[: 51 - lost], style)) + 20  # type: ignore[arg-type]
    assert one_more > limit


def test_a_text_that_cannot_be_shortened() -> None:
    assert shorten("no table here, but many words", lambda text: len(text) < 5) is None
    assert shorten(serialise_rows(("n",), (("1",),)), lambda text: len(text) < 5) is None
    assert shorten("short", lambda text: True) == ("short", 0)


def test_unknown_style() -> None:
    with pytest.raises(ConfigError, match='Did you mean "markdown"'):
        serialise_rows(("a",), (), "markdwon")  # type: ignore[arg-type]
