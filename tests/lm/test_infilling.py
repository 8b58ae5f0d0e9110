from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from tests.generation.toys import Recorder
from tests.tiny import write_checkpoint
from unmask.data.blanks import Blank
from unmask.errors import ConfigError
from unmask.generation.loop import infill
from unmask.generation.options import GenerationOptions
from unmask.generation.trace import Completion, Forwards, Stats
from unmask.lm import DiffusionLM, load
from unmask.lm.infilling import BlankRow, between, choose_lengths, lengths_of_runs, mean_log_prob

MASK, LETTERS = 4, 4
# a -> b -> c -> d -> a, nearly always
STEP = torch.full((LETTERS, LETTERS), 0.02, dtype=torch.float64)
for _letter in range(LETTERS):
    STEP[_letter, (_letter + 1) % LETTERS] = 0.94


def log_prob(row: tuple[int, ...]) -> float:
    """Of a row of the chain, of those of its length."""
    return math.log(1 / LETTERS) + sum(math.log(STEP[here, there]) for here, there in zip(row, row[1:], strict=False))


class Exact(Recorder):
    """Knows the chain: logits are the exact log-probabilities of a token given those that are not masked."""

    def logits_BLV(self, tokens_BL: torch.Tensor, is_valid_BL: torch.Tensor) -> torch.Tensor:
        found_BLV = torch.full((*tokens_BL.shape, LETTERS + 1), -torch.inf, dtype=torch.float64)
        for row, (tokens, valid) in enumerate(zip(tokens_BL.tolist(), is_valid_BL.tolist(), strict=True)):
            known = tokens[: sum(valid)]
            masses = torch.zeros(len(known), LETTERS, dtype=torch.float64)
            for filling in fillings(known):
                masses[range(len(known)), filling] += math.exp(log_prob(filling))
            found_BLV[row, : len(known), :LETTERS] = masses.log() - masses.sum(1, keepdim=True).log()
        return found_BLV


def fillings(known: list[int]) -> list[tuple[int, ...]]:
    choices = [range(LETTERS) if token == MASK else (token,) for token in known]
    return list(itertools.product(*choices))


def conditional(known: list[int], filling: tuple[int, ...]) -> float:
    """log p(filling | what is known), by enumeration."""
    whole = sum(math.exp(log_prob(other)) for other in fillings(known))
    return log_prob(filling) - math.log(whole)


def filled(known: list[int]) -> Completion:
    options = GenerationOptions(block_size=None, steps=16, trace=True, cache="none")
    return infill(Exact(), [known], options=options, mask_token_id=MASK)[0]


@pytest.mark.parametrize("length", range(1, 6))
def test_the_score_is_the_exact_log_likelihood_per_token(length: int) -> None:
    known = [0, *[MASK] * length, 3]
    done = filled(known)
    expected = conditional(known, tuple(done.token_ids)) / length
    assert mean_log_prob(done) == pytest.approx(expected, abs=1e-6)


def test_the_length_that_fits_is_found() -> None:
    for first, last in itertools.product(range(LETTERS), repeat=2):
        tried: list[tuple[int, ...]] = []

        def score(candidates: Any, first: int = first, last: int = last, tried: Any = tried) -> list[float]:
            tried.extend(candidates)
            return [mean_log_prob(filled([first, *[MASK] * length, last])) for (length,) in candidates]

        # between a letter and one that comes k later stand k - 1, or 4 more
        assert choose_lengths([Blank(1, 4)], score) == ((last - first - 2) % LETTERS + 1,)
        assert tried == [(1,), (2,), (3,), (4,)]


def test_few_combinations_are_all_compared_and_the_shorter_wins() -> None:
    seen: list[tuple[int, ...]] = []

    def score(candidates: Any) -> list[float]:
        seen.extend(candidates)
        return [-abs(a * b - 6.0) for a, b, _ in candidates]

    assert choose_lengths([Blank(1, 8), Blank(1, 8), Blank(2, 2)], score) == (2, 3, 2)
    assert sorted(seen) == [(a, b, 2) for a in range(1, 9) for b in range(1, 9)]


def test_many_combinations_are_improved_blank_by_blank() -> None:
    best, asked = (7, 2, 11), 0

    def score(candidates: Any) -> list[float]:
        nonlocal asked
        asked += len(candidates)
        return [-float(sum((a - b) ** 2 for a, b in zip(lengths, best, strict=True))) for lengths in candidates]

    assert choose_lengths([Blank(1, 16), Blank(1, 16), Blank(1, 16)], score) == best
    assert asked == 2 * 48  # the second round changes nothing


def test_blanks_that_touch_get_the_lengths_they_have_together() -> None:
    # the first two touch
    blanks, row = [Blank(1, 9), Blank(2, 9), Blank(1, 9)], BlankRow([], [], ((3, 4), (4, 6), (7, 8)))
    assert lengths_of_runs(blanks, row, lambda total: total in (5, 12)) == [[(1, 4), (3, 9)], [(5,)]]
    # nothing is possible: the shortest stay
    assert lengths_of_runs(blanks, row, lambda total: total in (12,)) == [[(3, 9)], [(1,)]]


def test_the_search_keeps_to_lengths_that_are_possible() -> None:
    asked: list[tuple[int, ...]] = []

    def score(candidates: Any) -> list[float]:
        asked.extend(candidates)
        return [-abs(sum(lengths) - 30.0) for lengths in candidates]

    runs = [[(1, 4), (3, 9)], [(12,), (18,), (20,)]]
    assert choose_lengths([Blank(1, 9), Blank(2, 9), Blank(1, 99)], score, runs) == (3, 9, 18)
    assert set(asked) <= {(*two, *one) for two in runs[0] for one in runs[1]}


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> DiffusionLM:
    return load(write_checkpoint(tmp_path_factory.mktemp("lm") / "model"), device="cpu")


@pytest.mark.parametrize("most", [12, 13])
def test_open_fields_of_a_grammar_need_not_be_as_short_as_can_be(lm: DiffusionLM, most: int) -> None:
    pytest.importorskip("outlines_core", reason="the extra `grammar` is not installed")
    template = f'{{"a": "{{a:1-{most}}}", "b": "{{b:1-{most}}}"}}'
    (done,) = lm.fill_template(template, regex="[a-z]{12}", steps=1)
    assert [len(text) for text in done.fields.values()] == [12, 12]
    with pytest.raises(ConfigError, match="no text of the grammar has exactly 1 tokens.* the shortest has 14"):
        lm.fill_template(template, regex="[a-z]{14}", steps=1)


def test_the_blank_that_no_text_fits_is_told(lm: DiffusionLM) -> None:
    pytest.importorskip("outlines_core", reason="the extra `grammar` is not installed")
    with pytest.raises(ConfigError, match="no text of the grammar has exactly 3 tokens"):
        lm.infill("a[MASK:1-20] b[MASK:3-8] c[MASK:1-20]", regex="[a-z]{12}")


def test_blanks_that_touch_share_a_text_of_a_grammar(lm: DiffusionLM) -> None:
    pytest.importorskip("outlines_core", reason="the extra `grammar` is not installed")
    (done,) = lm.fill_template("{a:1-9}{b:1-9} {c:1-9}", regex="[a-z]{6}|[a-z]{12}", steps=1)
    a, b, c = done.fields.values()
    assert len(a + b) in (6, 12) and len(c) == 6 and done.text == f"{a}{b} {c}"


@pytest.mark.parametrize("tokens", ["3", (1,), (1, 2, 3), 2.0, (1, 2.0), None, True, {1, 2}, ("1", "2")])
def test_a_length_between_two_texts_is_one_number_or_two(lm: DiffusionLM, tokens: Any) -> None:
    with pytest.raises(ConfigError, match="it must be a whole number such as 8, or two such as"):
        lm.infill(prefix="a", suffix="b", tokens=tokens)


def test_lengths_between_two_texts() -> None:
    assert between("a", "b", 3).blanks == (Blank(3, 3, "middle"),)
    spans: tuple[Any, ...] = ((1, 3), [1, 3])
    for span in spans:
        assert between("a", "b", span).blanks == (Blank(1, 3, "middle"),)
    with pytest.raises(ConfigError, match="from 1 to 128 tokens"):
        between("a", "b", 0)


def test_what_is_no_text_is_refused(lm: DiffusionLM) -> None:
    given: tuple[dict[str, Any], ...] = ({"prefix": 1}, {"prefix": "a", "suffix": None})
    for wrong in given:
        with pytest.raises(ConfigError, match="a text to fill in is a .*; give it as a string"):
            lm.infill(**wrong)
    no_texts: Any = [1, 2]
    with pytest.raises(ConfigError, match="a text to fill in is a list"):
        lm.fill_template(no_texts)


def test_a_template_without_a_field_is_told_how_to_write_one(lm: DiffusionLM) -> None:
    with pytest.raises(ConfigError, match=r"text 0 has no blank to fill in; write \{a:4\}"):
        lm.fill_template('{"a": 1}')
    with pytest.raises(ConfigError, match=r"text 1 has no blank to fill in; write \[MASK\]"):
        lm.infill(["a[MASK]", "b"])


def test_a_score_needs_a_trace() -> None:
    with pytest.raises(ConfigError, match="without a trace"):
        mean_log_prob(Completion([1], "length", Stats(1, Forwards(), 1)))
