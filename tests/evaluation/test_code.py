"""pass@k against enumeration; the sandbox's judgement on problems and solutions that people use."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest

from unmask.errors import ResourceError
from unmask.evaluation import sandbox
from unmask.evaluation.code import judge, pass_at_k, program_in


@pytest.mark.parametrize("count", range(1, 8))
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(count: int) -> None:
    for right, k in itertools.product(range(count + 1), range(1, count + 1)):
        draws = list(itertools.combinations([True] * right + [False] * (count - right), k))
        assert pass_at_k(count, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("count", "right", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_pass_at_more_than_there_are_is_refused(count: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match="is not defined"):
        pass_at_k(count, right, k)


def test_programs_are_found() -> None:
    assert program_in("Sure:\n```python\nx = 1\n\ny = 2\n```\nand ```z```") == "x = 1\n\ny = 2"
    assert program_in("```\nx = 1") == "x = 1"
    assert program_in("    return x\n") == "    return x\n"


@pytest.fixture(scope="module")
def confined() -> None:
    try:
        sandbox.protections()
    except ResourceError as error:
        pytest.skip(str(error))


def problems(shared: Path) -> list[dict]:
    with gzip.open(shared / "data/humaneval/HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def right_and_wrong(problem: dict) -> list[bool]:
    programs = [problem["prompt"] + body for body in (problem["canonical_solution"], "    return None\n")]
    tests = f"{problem['test']}\ncheck({problem['entry_point']})"
    return [outcome.passed for outcome in judge(programs, tests)]


def test_solutions_of_humaneval_pass_and_empty_ones_do_not(confined: None, shared: Path) -> None:
    # those with the most unlike values, and three others
    chosen = {"HumanEval/32", "HumanEval/38", "HumanEval/107", "HumanEval/148", "HumanEval/0"}
    found = [right_and_wrong(problem) for problem in problems(shared) if problem["task_id"] in chosen]
    assert found == [[True, False]] * len(chosen)


@pytest.mark.long
def test_every_solution_of_humaneval_passes(confined: None, shared: Path) -> None:
    assert [right_and_wrong(problem) for problem in problems(shared)] == [[True, False]] * 164


def test_the_samples_of_the_official_scorer(confined: None, shared: Path) -> None:
    """Its six example programs: processes, sleep, input, and three ways to write the right one."""
    folder = shared / "data/humaneval"
    (problem,) = [json.loads(line) for line in (folder / "example_problem.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (folder / "example_samples.jsonl").read_text().splitlines()]
    programs = [problem["prompt"] + sample["completion"] for sample in samples]
    tests = f"{problem['test']}\ncheck({problem['entry_point']})"
    passed = [outcome.passed for outcome in judge(programs, tests, timeout_seconds=2)]
    assert passed == [False, False, False, True, True, True]
    assert pass_at_k(6, sum(passed), 1) == 0.5
