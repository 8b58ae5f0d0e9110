"""Answers to TAT-QA's questions. Expected scores were printed by its official scorer (release of the repository)."""

from __future__ import annotations

import pytest

from unmask.evaluation.tatqa import TatScore, list_score, tatqa_score, written_scale

OFFICIAL = [
    (["$1,496.5"], "million", "span", ["1496.5"], "million", (1.0, 1.0)),
    (["$1,496.5"], "million", "span", ["1496.5"], "", (0.0, 0.0)),
    (["-22.22"], "percent", "arithmetic", ["-0.2222"], "", (1.0, 1.0)),
    (["-22.22"], "percent", "arithmetic", ["-22.2"], "percent", (0.0, 0.0)),
    (["134"], "", "arithmetic", ["(134)"], "", (0.0, 0.0)),
    (["-134"], "", "arithmetic", ["(134)"], "", (1.0, 1.0)),
    (["2019", "2018", "2017"], "", "multi-span", ["2017", "2018", "2019"], "", (1.0, 1.0)),
    (["2019", "2018", "2017"], "", "multi-span", ["2017", "2018"], "", (0.0, 0.8)),
    (["the board of directors"], "", "span", ["directors, a board"], "", (0.0, 0.8)),
    (["12%"], "", "span", ["12"], "percent", (1.0, 1.0)),
    (["3"], "", "count", ["3.0"], "", (1.0, 1.0)),
    (["1.2"], "billion", "arithmetic", ["1200"], "million", (1.0, 1.0)),
    (["fixed price"], "thousand", "span", ["fixed price"], "", (0.0, 0.8)),
]


@pytest.mark.parametrize(("gold", "gold_scale", "kind", "predicted", "scale", "official"), OFFICIAL)
def test_lists_score_as_officially(
    gold: list[str], gold_scale: str, kind: str, predicted: list[str], scale: str, official: tuple[float, float]
) -> None:
    assert list_score(gold, gold_scale, kind, predicted, scale) == official


def test_a_scale_is_the_last_word() -> None:
    assert written_scale("-12.6 million.") == ("-12.6", "million")
    assert written_scale(" 12 Percent ") == ("12", "percent")
    assert written_scale("the million") == ("the", "million")
    assert written_scale("million") == ("million", "")


@pytest.mark.parametrize(
    ("gold", "scale", "kind", "written", "expected"),
    [
        (["-12.6"], "million", "arithmetic", "-12.6 million", TatScore(1, 1, 1)),
        (["-12.6"], "million", "arithmetic", "-12.6", TatScore(0, 0, 0)),
        (["2019", "2018"], "", "multi-span", "2018, 2019", TatScore(1, 1, 1)),
        # a comma may belong to an answer, and so may a word that elsewhere is a scale
        (["Rome, Italy", "Oslo"], "", "multi-span", "Oslo, Rome, Italy", TatScore(1, 1, 1)),
        (["$417 million", "$146 million"], "", "multi-span", "$417 million, $146 million", TatScore(1, 1, 1)),
        (["5"], "", "count", "", TatScore(0, 0, 0)),
    ],
)
def test_a_text_is_read_in_the_best_way(
    gold: list[str], scale: str, kind: str, written: str, expected: TatScore
) -> None:
    assert tatqa_score(gold, scale, kind, written) == expected


def test_many_commas_take_no_time() -> None:
    words = [f"w{number}" for number in range(60)]
    assert tatqa_score(words, "", "multi-span", ", ".join(reversed(words))) == TatScore(1, 1, 1)
