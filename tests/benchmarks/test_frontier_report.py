"""The frontier's tables: totals over totals, paired losses, what holds, a figure that is XML."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks.frontier import figure, report
from benchmarks.frontier.settings import BASELINE, KNOBS

FAST = KNOBS["threshold"][0].with_cache("none")
WILD = KNOBS["confidence"][2].with_cache("none")


def row(setting: Any, task: str, marks: list[float], seed: int = 0, forwards: int = 100) -> dict[str, Any]:
    names = {"setting": setting.name, "strategy": setting.strategy, "cache": setting.cache}
    return {
        "task": task,
        "seed": seed,
        **names,
        "marks": marks,
        "emitted": 200,
        "forwards": forwards,
        "positions": 50 * forwards,
    }


def measured() -> list[dict[str, Any]]:
    """Two seeds: FAST is as good in half the forwards, WILD is worse on one task only."""
    rows = []
    for task in report.TASKS:
        good, bad = ([1.0] * 20, [0.0] * 20) if task != "stories" else ([2.0] * 20, [5.0] * 20)
        for seed in (0, 1):
            rows.append(row(BASELINE, task, good, seed))
            rows.append(row(FAST, task, good, seed, forwards=50))
            rows.append(row(WILD, task, bad if task == "stories" else good, seed, forwards=25))
    return rows


def test_costs_are_totals_over_totals() -> None:
    rows = [row(BASELINE, "stories", [1.0], 0, forwards=100), row(BASELINE, "stories", [0.0], 1, forwards=300)]
    found = report.summarise(rows)[BASELINE.name]["stories"]
    assert found.per_forward == pytest.approx(400 / 400)
    assert found.per_token == pytest.approx(50 * 400 / 400)
    assert (found.mark, found.models, found.count) == (0.5, 2, 2)


def test_losses_are_paired_and_worse_is_above_0_whatever_the_unit() -> None:
    found = report.summarise(measured())
    assert found[FAST.name]["sums"].loss == 0
    assert found[WILD.name]["stories"].loss == pytest.approx(3.0)
    right = report.summarise([row(BASELINE, "sums", [1.0, 1.0]), row(FAST, "sums", [1.0, 0.0])])
    assert right[FAST.name]["sums"].loss == pytest.approx(0.5)


def test_intervals_are_as_wide_as_models_differ() -> None:
    alike = report.of_models([[1.0, 0.0] * 50] * 3)
    apart = report.of_models([[1.0] * 100, [1.0, 0.0] * 50, [0.0] * 100])
    # three models at 0, 1/2 and 1: the standard error of their mean is sqrt(1/4 / 3), the normal interval +-0.57
    assert apart[1] - apart[0] == pytest.approx(2 * 1.96 * (0.25 / 3) ** 0.5, rel=0.15)
    # 300 questions: +-0.057, and a quarter more for what three models cannot tell
    assert 0.1 < alike[1] - alike[0] < 0.16
    assert report.of_models([[2.0] * 5]) == (2.0, 2.0)


def test_the_order_of_measurements_does_not_matter() -> None:
    rows = [row(FAST, "sums", [1.0, 0.0] * seed + [1.0], seed) for seed in range(4)]
    assert report.summarise(rows) == report.summarise(rows[2:] + rows[:2])


def test_a_model_that_has_not_learned_its_task_is_left_out() -> None:
    rows = [row(BASELINE, "sums", [1.0] * 9, 0), row(BASELINE, "sums", [1.0, 0.0, 0.0], 1)]
    rows += [row(FAST, "sums", [1.0] * 9, 0), row(FAST, "sums", [0.0, 0.0, 0.0], 1)]
    assert report.left_out(rows) == {("sums", "sums-1"): pytest.approx(1 / 3)}
    found = report.summarise(rows)
    assert (found[FAST.name]["sums"].mark, found[FAST.name]["sums"].models) == (1.0, 1)
    # sets of questions asked of one model are one model
    asked = [{**entry, "model": "sums-0"} for entry in (*rows[:1], row(BASELINE, "sums", [1.0, 0.9], 1))]
    told = report.summarise(asked)[BASELINE.name]["sums"]
    assert (told.models, told.count) == (1, 11)


def test_only_what_loses_nowhere_is_ranked_the_cheapest_first() -> None:
    found = report.summarise(measured())
    assert [report.holds(found[entry.name]) for entry in (BASELINE, FAST, WILD)] == [True, True, False]
    lines = report.ranking(found).splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [FAST.name, BASELINE.name]


def test_a_setting_that_was_not_measured_everywhere_does_not_hold() -> None:
    found = report.summarise([entry for entry in measured() if entry["task"] != "sudoku"])
    assert not report.holds(found[FAST.name])


def test_a_sure_loss_is_marked_in_the_table() -> None:
    found = report.summarise(measured())
    assert "↓" in report.cell("stories", found[WILD.name]["stories"])
    assert "↓" not in report.cell("sums", found[WILD.name]["sums"])
    assert report.cell("sums", None) == "-"


def test_figures_are_xml_with_a_point_for_each_setting() -> None:
    found = report.summarise(measured())
    tree = ElementTree.fromstring(figure.strategies(found))
    points = [node for node in tree.iter() if node.tag.endswith("circle") and node.get("r") == "3.5"]
    assert len(points) == 3 * len(report.TASKS)
    assert ElementTree.fromstring(figure.caches(found)) is not None


def test_all_numbers_are_written() -> None:
    lines = report.everything(report.summarise(measured())).splitlines()
    assert len(lines) == 1 + 3 * len(report.TASKS)
