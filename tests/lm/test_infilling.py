from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from tests.generation.toys import Recorder
from unmask.data.blanks import Blank
from unmask.errors import ConfigError
from unmask.generation.loop import infill
from unmask.generation.options import GenerationOptions
from unmask.generation.trace import Completion, Forwards, Stats
from unmask.lm.infilling import choose_lengths, mean_log_prob

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


def test_a_score_needs_a_trace() -> None:
    with pytest.raises(ConfigError, match="without a trace"):
        mean_log_prob(Completion([1], "length", Stats(1, Forwards(), 1)))
