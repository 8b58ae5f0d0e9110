"""Files of benchmarks become the rows that the harness' tasks read.

What a row has to become is written out by hand from the real datasets' first rows.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from unmask.errors import DataError
from unmask.evaluation.harness_rows import BENCHMARKS, has_files, part_name, read_benchmark, split_named


def rows(data_dir: Path, dataset: str, name: str | None = None) -> dict[str, list[dict[str, Any]]]:
    return read_benchmark(data_dir, BENCHMARKS[dataset], part_name(dataset, name))


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_harness_own_prompts_come_back_from_other_forms(tmp_path: Path) -> None:
    arc = {"query": "Question: Why?", "choices": ["a", "b", "c"], "gold": 1}
    write(tmp_path / "mc/arc_easy.jsonl", arc)
    assert rows(tmp_path, "allenai/ai2_arc", "ARC-Easy") == {
        "test": [{"question": "Why?", "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}, "answerKey": "B"}]
    }
    assert not has_files(tmp_path, BENCHMARKS["allenai/ai2_arc"], part_name("allenai/ai2_arc", "ARC-Challenge"))
    write(tmp_path / "mc/piqa.jsonl", {"query": "Question: How?\n", "choices": ["so", "thus"], "gold": 0})
    assert rows(tmp_path, "baber/piqa")["test"] == [{"goal": "How?", "sol1": "so", "sol2": "thus", "label": 0}]
    write(tmp_path / "mc/lambada_openai.jsonl", {"context": "I do not care about", "continuation": "signs"})
    assert rows(tmp_path, "EleutherAI/lambada_openai")["test"] == [{"text": "I do not care about signs"}]


def test_the_two_beginnings_of_winogrande_come_back(tmp_path: Path) -> None:
    options = ["Sarah was better than Sandra so Sarah", "Sarah was better than Sandra so Sandra"]
    row = {"context_options": options, "continuation": "got the easy cases.", "gold": 1}
    write(tmp_path / "mc/winogrande.jsonl", row)
    (found,) = rows(tmp_path, "allenai/winogrande")["test"]
    before, _, after = found["sentence"].partition("_")
    assert [before + found["option1"], before + found["option2"]] == options
    assert (after.strip(), found["answer"], found["option1"]) == ("got the easy cases.", "2", "Sarah")


def test_hellaswag_as_text(tmp_path: Path) -> None:
    endings = ["one.", "two.", "three.", "four."]
    blocks = [
        ["Roof shingle removal: A man is sitting on a roof. he", "3", *endings],
        ["How to wash: Take soap. Use water.", "0", *endings],
    ]
    path = tmp_path / "eval_hellaswag/hellaswag_val.txt"
    path.parent.mkdir()
    path.write_text("\n".join(line for block in blocks for line in block) + "\n")
    first, second = rows(tmp_path, "Rowan/hellaswag")["validation"]
    assert (first["activity_label"], first["ctx_a"], first["ctx_b"], first["label"]) == (
        "Roof shingle removal",
        "A man is sitting on a roof.",
        "he",
        "3",
    )
    assert (second["ctx_a"], second["ctx_b"]) == ("Take soap. Use water.", "") and second["endings"] == endings


def test_subjects_in_folders_and_in_archives(tmp_path: Path) -> None:
    table = "Is it?,one,two,three,four,C\n"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("data/dev/anatomy_dev.csv", table)
        archive.writestr("data/test/anatomy_test.csv", table * 2)
        archive.writestr("data/test/astronomy_test.csv", table)
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "x.zip").rename(tmp_path / "mmlu/mmlu.zip")
    found = rows(tmp_path, "cais/mmlu", "anatomy")
    assert {split: len(members) for split, members in found.items()} == {"dev": 1, "test": 2}
    assert found["dev"] == [{"question": "Is it?", "choices": ["one", "two", "three", "four"], "answer": 2}]
    ceval = tmp_path / "ceval"
    for split, row in (("val", "0,Is it?,1,2,3,4,D"), ("test", "0,Is it?,1,2,3,4,")):
        (ceval / split).mkdir(parents=True)
        (ceval / split / f"law_{split}.csv").write_text(f"id,question,A,B,C,D,answer\n{row}\n")
    answered = {"question": "Is it?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "D"}
    assert rows(tmp_path, "ceval/ceval-exam", "law") == {"validation": [answered]}


def test_problems_of_one_subject(tmp_path: Path) -> None:
    first = {"context": "How many?", "answer": "3", "chain_of_thought": "It is \\boxed{3}.", "category": "algebra"}
    second = {"problem": "Which?", "solution": "\\boxed{4}", "type": "Counting & Probability"}
    write(tmp_path / "math/math_test.jsonl", first, second)
    assert rows(tmp_path, "EleutherAI/hendrycks_math", "algebra")["test"] == [
        {"problem": "How many?", "solution": "It is \\boxed{3}."}
    ]
    assert rows(tmp_path, "EleutherAI/hendrycks_math", "counting_and_probability")["test"] == [
        {"problem": "Which?", "solution": "\\boxed{4}"}
    ]
    write(tmp_path / "math/math500.jsonl", {"problem": "P", "solution": "S", "subject": "Algebra"})
    assert rows(tmp_path, "HuggingFaceH4/MATH-500", "default")["test"] == [{"problem": "P", "solution": "S"}]


def test_splits_of_mbpp_go_by_number_and_packed_files_are_read(tmp_path: Path) -> None:
    tasks = [{"task_id": n, "text": "t", "code": "c", "test_list": ["a"]} for n in (2, 11, 510, 511, 600, 601)]
    write(tmp_path / "mbpp/mbpp.jsonl", *tasks)
    write(tmp_path / "mbpp/mbpp_sanitized.jsonl", {"task_id": 12})
    found = rows(tmp_path, "google-research-datasets/mbpp", "full")
    assert {split: [row["task_id"] for row in members] for split, members in found.items()} == {
        "prompt": [2],
        "test": [11, 510],
        "validation": [511, 600],
        "train": [601],
    }
    task = {"task_id": "0", "prompt": "p", "entry_point": "e", "canonical_solution": "s", "test": "t"}
    packed = tmp_path / "humaneval/HumanEval.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress((json.dumps(task) + "\n").encode()))
    assert rows(tmp_path, "openai/openai_humaneval", "openai_humaneval") == {"test": [task]}


@pytest.mark.parametrize(
    ("place", "split"),
    [
        ("gsm8k/train.jsonl", "train"),
        ("train/gsm8k/x.jsonl", "other"),
        ("eval_cmmlu/dev/agronomy.csv", "dev"),
        ("hellaswag_val.first3000.txt", "validation"),
        ("math_test_minus.jsonl", "test"),
        ("latest.jsonl", "other"),
    ],
)
def test_a_file_s_name_says_its_split(place: str, split: str) -> None:
    assert split_named(place, "other") == split


# file, its content, dataset, subject, what is said of the row
MC, CHOICES = "mc/{}.jsonl", {"query": "Q?", "choices": ["a", "b"]}
BAD: list[tuple[str, str, str, str | None, str]] = [
    (
        "gsm8k/test.jsonl",
        '{"question": "Q", "answer": "A"}\n\n{"question": "Q"}\n',
        "openai/gsm8k",
        None,
        'line 3: .*no "answer"',
    ),
    (
        "gsm8k/test.jsonl",
        '{"question": "1+1?", "answer": null}',
        "openai/gsm8k",
        None,
        'line 1: .*nothing stands in "answer"',
    ),
    ("gsm8k/test.jsonl", '{"question": 3, "answer": "A"}', "openai/gsm8k", None, '"question" is 3 and no text'),
    ("gsm8k/test.jsonl", "[1]", "openai/gsm8k", None, "line 1: .*is no object"),
    ("gsm8k/test.jsonl", '\n{"', "openai/gsm8k", None, "line 2, cannot be read"),
    (
        "mmlu/law_test.csv",
        "Q,a,b,c,d,A\nShort,a,b,c\n",
        "cais/mmlu",
        "law",
        'law_test.csv, line 2: .*nothing stands in "D"',
    ),
    ("mmlu/law_test.csv", "Q,a,b,c,d,\n", "cais/mmlu", "law", '"answer" is "" and none of A, B, C, D'),
    ("mmlu/law_test.csv", "Q,a,b,c,d,BC\n", "cais/mmlu", "law", '"answer" is "BC"'),
    ("mmlu/law_test.csv", "Q, and so on,a,b,c,d,A\n", "cais/mmlu", "law", "line 1: .*more cells than columns"),
    (
        "cmmlu/law.csv",
        ",Question,A,B,C,D,Answer\n0,Q,1,2,3\n",
        "haonan-li/cmmlu",
        "law",
        'line 2: .*nothing stands in "D"',
    ),
    (
        "ceval/law_val.csv",
        "id,question,A,B,C,D,answer\n0,Q,1,2,3\n",
        "ceval/ceval-exam",
        "law",
        'nothing stands in "D"',
    ),
    (
        MC.format("arc_easy"),
        json.dumps(CHOICES | {"gold": -1}),
        "allenai/ai2_arc",
        "ARC-Easy",
        '"gold" is -1, and there are 2',
    ),
    (
        MC.format("arc_easy"),
        json.dumps(CHOICES | {"gold": 2}),
        "allenai/ai2_arc",
        "ARC-Easy",
        '"gold" is 2, and there are 2',
    ),
    (MC.format("piqa"), json.dumps(CHOICES | {"gold": 2}), "baber/piqa", None, '"gold" is 2, and there are 2'),
    (
        MC.format("winogrande"),
        '{"context_options": ["a", "b"], "continuation": "c", "gold": -1}',
        "allenai/winogrande",
        "winogrande_xl",
        '"gold" is -1',
    ),
    (
        "hellaswag/hellaswag.txt",
        "a: b c.\n4\n1\n2\n3\n4\n",
        "Rowan/hellaswag",
        None,
        'line 1: .*"gold" is .4., and there are 4',
    ),
    (
        "hellaswag/hellaswag.txt",
        "a: b c.\n0\n1\n2\n3\n",
        "Rowan/hellaswag",
        None,
        "line 1: .*there are 3 endings, not 4",
    ),
]


@pytest.mark.parametrize(("file", "content", "dataset", "name", "told"), BAD)
def test_what_cannot_be_read_is_named_with_its_line(
    file: str, content: str, dataset: str, name: str | None, told: str, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=told):
        rows(tmp_path, dataset, name)


def test_test_parts_without_answers_are_left_out(tmp_path: Path) -> None:
    """As the Hub has them, beside parts with answers."""
    question = {"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e"]}
    write(tmp_path / "hellaswag/hellaswag_val.jsonl", question | {"label": "1"})
    write(tmp_path / "hellaswag/hellaswag_test.jsonl", question | {"label": ""})
    assert rows(tmp_path, "Rowan/hellaswag") == {"validation": [question | {"label": "1"}]}
    question = {"goal": "g", "sol1": "a", "sol2": "b"}
    write(tmp_path / "piqa/piqa.jsonl", question | {"label": -1}, question | {"label": 1})
    assert rows(tmp_path, "baber/piqa") == {"test": [question | {"label": 1}]}
    question = {"sentence": "_ is", "option1": "a", "option2": "b"}
    write(tmp_path / "winogrande/winogrande.jsonl", question | {"answer": ""}, question | {"answer": "2"})
    assert rows(tmp_path, "allenai/winogrande") == {"test": [question | {"answer": "2"}]}


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu/mmlu.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot be read as a ZIP file"):
        rows(tmp_path, "cais/mmlu", "anatomy")


def test_the_real_files_are_read(shared: Path) -> None:
    """Counts are those of the files' READMEs."""
    data = shared / "data"
    counts = {
        ("openai/gsm8k", "main"): {"train": 7473, "test": 200},
        ("cais/mmlu", "anatomy"): {"dev": 5, "test": 135, "validation": 14},
        ("haonan-li/cmmlu", "agronomy"): {"dev": 5, "test": 169},
        ("ceval/ceval-exam", "accountant"): {"dev": 5, "validation": 49},
        ("allenai/ai2_arc", "ARC-Easy"): {"test": 2376},
        ("allenai/ai2_arc", "ARC-Challenge"): {"test": 600},
        ("Rowan/hellaswag", None): {"validation": 3000},
        ("baber/piqa", None): {"test": 1838},
        ("allenai/winogrande", "winogrande_xl"): {"test": 800},
        ("EleutherAI/lambada_openai", "default"): {"test": 3000},
        ("SaylorTwift/bbh", "web_of_lies"): {"test": 250},
        ("EleutherAI/hendrycks_math", "algebra"): {"test": 1063},
        ("HuggingFaceH4/MATH-500", "default"): {"test": 100},
        ("openai/openai_humaneval", "openai_humaneval"): {"test": 164},
        ("google-research-datasets/mbpp", "full"): {"prompt": 10, "test": 100, "validation": 90, "train": 374},
        ("loubnabnl/humaneval_infilling", "HumanEval-SingleLineInfilling"): {"test": 1033},
    }
    found = {key: {split: len(members) for split, members in rows(data, *key).items()} for key in counts}
    assert found == counts
