"""What is asked of tasks is what they can give: examples, blanks, multiple choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unmask.errors import ConfigError

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

from unmask.evaluation.harness_demands import check_examples, check_meaning
from unmask.evaluation.harness_tasks import ChosenTasks, find_tasks, load_tasks

GSM8K = [{"question": f"{number}?", "answer": f"#### {number}"} for number in range(6)]
ARC = [{"query": f"Question: {number}?", "choices": ["a", "b"], "gold": 0} for number in range(3)]
BLANK = {
    "task_id": "x/0",
    "prompt": "def f():\n",
    "suffix": "\n",
    "entry_point": "f",
    "canonical_solution": "    return 1",
    "test": "def check(candidate):\n    assert candidate() == 1",
}
FILES = {
    "gsm8k": ("gsm8k/test.jsonl", GSM8K),
    "arc_easy": ("mc/arc_easy.jsonl", ARC),
    "humaneval-infilling": ("humaneval_infilling/HumanEval-SingleLineInfilling.jsonl", [BLANK]),
}


@pytest.fixture
def chosen(tmp_path: Path, request: pytest.FixtureRequest) -> ChosenTasks:
    for name in request.param:
        path, rows = FILES[name]
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_tasks(find_tasks(request.param, allow_code_execution=True), tmp_path)


@pytest.mark.parametrize("chosen", [["gsm8k"]], indirect=True)
def test_the_note_is_of_what_is_done(chosen: ChosenTasks) -> None:
    """By itself the task has five examples; there are six questions and no other part."""
    told = ["gsm8k: there is no other part for examples, which are drawn from the questions."]
    assert check_examples(chosen.by_name, None) == told
    assert check_examples(chosen.by_name, 2) == told
    assert check_examples(chosen.by_name, 0) == []
    with pytest.raises(ConfigError, match="num_fewshot is 6, and gsm8k has 5 examples beside the question"):
        check_examples(chosen.by_name, 6)


@pytest.mark.parametrize("chosen", [["humaneval-infilling", "arc_easy"]], indirect=True)
def test_a_task_without_examples_says_so_where_some_are_asked_for(chosen: ChosenTasks) -> None:
    assert check_examples(chosen.by_name, None) == []
    first, second = check_examples(chosen.by_name, 1)
    assert first == "humaneval_single_line_infilling: asks without examples, whatever num_fewshot is."
    assert second.startswith("arc_easy: ") and "drawn from the questions" in second
    check_meaning(chosen.by_name, infills=True, settles=True)


@pytest.mark.parametrize("chosen", [["gsm8k"]], indirect=True)
def test_what_would_change_nothing_is_refused(chosen: ChosenTasks) -> None:
    check_meaning(chosen.by_name, infills=False, settles=False)
    with pytest.raises(ConfigError, match=r"infill_tokens is for .* there is none in gsm8k\. Leave it out"):
        check_meaning(chosen.by_name, infills=True, settles=False)
    with pytest.raises(ConfigError, match=r"settle is for multiple choice, .* none in gsm8k\. Leave it out"):
        check_meaning(chosen.by_name, infills=False, settles=True)
