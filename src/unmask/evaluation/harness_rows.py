"""Files of a benchmark, as they are handed around -> rows in the form that the harness' tasks read.

Knows files and columns; tasks, models and the harness itself are unknown here. Rows that have the harness' columns
already pass as they are.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import DataError

Row = dict[str, Any]
Splits = dict[str, list[Row]]
TRAIN, VALIDATION, TEST = "train", "validation", "test"
_SPLIT_WORDS = ((TRAIN, ("train",)), (VALIDATION, ("validation", "valid", "val")), ("dev", ("dev",)), (TEST, ("test",)))
LETTERS = "ABCDEFGHIJ"
# of a question of HellaSwag
_ENDINGS = 4


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark lies in a user's folder, and how its rows become the harness'.

    Attributes:
        folders: names that its folder may have.
        files: patterns of its files in there; `{name}` is the subject, as the harness calls it.
        row: turns a row into one of the harness; None leaves it out.
        split: of files whose name says none; None: of each row, by `split_of`.
        split_of: the split of a row, where files hold several.
        columns: of CSV files without a heading.
        archive: pattern of a ZIP file that may hold the files instead.
    """

    folders: tuple[str, ...]
    files: tuple[str, ...]
    row: Callable[[Row], Row | None]
    split: str = TEST
    split_of: Callable[[Row], str] | None = None
    columns: tuple[str, ...] = ()
    archive: str = "*.zip"


def read_benchmark(data_dir: Path, benchmark: Benchmark, name: str = "") -> Splits:
    """The rows of each split; empty where there are no files.

    Args:
        data_dir: the user's folder of benchmarks.
        benchmark: which.
        name: the subject, for those that have some.

    Raises:
        DataError: a file is damaged, or its rows have other columns.
    """
    splits: Splits = {}
    for place, content in _contents(data_dir, benchmark, name):
        for where_it_is, row in _rows(place, content, benchmark.columns):
            turned, split = _turned(benchmark, row, f"{place}, {where_it_is}", name)
            if turned is not None:
                splits.setdefault(split or split_named(place, benchmark.split), []).append(turned)
    return splits


def _turned(benchmark: Benchmark, row: Any, place: str, name: str) -> tuple[Row | None, str]:
    """The harness' row, and its split where the row says it."""
    try:
        turned = benchmark.row({**row, "_name": name})
        return turned, benchmark.split_of(row) if benchmark.split_of and turned is not None else ""
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        told = f'it has no "{error.args[0]}"' if isinstance(error, KeyError) else error
        columns = f"has the columns {', '.join(map(str, row))}" if isinstance(row, dict) else "is no object"
        raise DataError(
            f"{place}: not in a form that is known for it ({told}); the row {columns}. The forms that are read are "
            "listed in docs/evaluation.md."
        ) from None


def where(data_dir: Path, benchmark: Benchmark, name: str = "") -> str:
    """Where its files were looked for, for a message."""
    folder, file = benchmark.folders[0], benchmark.files[0].replace("{name}", name)
    return f"{data_dir / folder}/{file}"


def has_files(data_dir: Path, benchmark: Benchmark, name: str = "") -> bool:
    """Whether there are files of it."""
    return next(_places(data_dir, benchmark, name), None) is not None


def split_named(place: str, otherwise: str) -> str:
    """The split that a file's name, or its folder's, speaks of."""
    words = re.split(r"[^a-z]+", "/".join(place.replace("\\", "/").split("/")[-2:]).lower())
    return next((split for split, names in _SPLIT_WORDS if set(names) & set(words)), otherwise)


def _places(data_dir: Path, benchmark: Benchmark, name: str) -> Iterator[tuple[Path, str | None]]:
    """Files, and files in archives: (path, member)."""
    for folder in (data_dir / folder for folder in benchmark.folders):
        patterns = [pattern.replace("{name}", name) for pattern in benchmark.files]
        found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        if found:
            yield from ((path, None) for path in dict.fromkeys(found))
            return
        for archive in sorted(folder.glob(benchmark.archive)):
            members = [member for member in _members(archive) if _fits(member, patterns)]
            yield from ((archive, member) for member in members)
            if members:
                return


def _fits(member: str, patterns: Sequence[str]) -> bool:
    return any(Path("/" + member).match(pattern) for pattern in patterns)


def _members(archive: Path) -> list[str]:
    try:
        with zipfile.ZipFile(archive) as opened:
            return sorted(opened.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} cannot be read as a ZIP file: {error}.") from None


def _contents(data_dir: Path, benchmark: Benchmark, name: str) -> Iterator[tuple[str, str]]:
    for path, member in _places(data_dir, benchmark, name):
        place = f"{path}" if member is None else f"{path}/{member}"
        try:
            if member is not None:
                with zipfile.ZipFile(path) as archive:
                    content = archive.read(member)
            else:
                content = path.read_bytes()
            yield place, (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        except (OSError, EOFError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise DataError(f"{place} cannot be read: {error}.") from None


def _rows(place: str, text: str, columns: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The rows of a file by its ending, each with where it is: .jsonl, .json (a list, or `examples`), .csv, .txt."""
    name, line = place.removesuffix(".gz"), 0
    try:
        if name.endswith(".csv"):
            reader = csv.DictReader(io.StringIO(text), fieldnames=columns or None)
            yield from ((f"line {reader.line_num}", row) for row in reader)
        elif name.endswith(".txt"):
            yield from _blocks(text.replace("\r\n", "\n").removesuffix("\n").split("\n"))
        elif name.endswith(".jsonl"):
            for line, content in enumerate(text.split("\n"), 1):
                if content.strip():
                    yield f"line {line}", json.loads(content)
        else:
            found = json.loads(text)
            rows = found["examples"] if isinstance(found, dict) else found
            yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
    except (csv.Error, ValueError, KeyError, TypeError) as error:
        at = f", line {line}," if line else ""
        raise DataError(f"{place}{at} cannot be read: {error}.") from None


def _blocks(lines: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """HellaSwag as text: label and context, number of the right ending, four endings."""
    for at in range(0, len(lines), 6):
        parts = lines[at : at + 6]
        if any(part.strip() for part in parts):
            yield f"line {at + 1}", dict(zip(("query", "gold", "choices"), (*parts[:2], parts[2:]), strict=False))


def as_it_is(*columns: str) -> Callable[[Row], Row]:
    """Rows that must have these columns, and keep no others."""
    return lambda row: {column: _there(row, column) for column in columns}


def _there(row: Row, column: str) -> Any:
    """What stands in a column, which must be something.

    Raises:
        KeyError: there is no such column. ValueError: nothing stands there, or the row has cells beyond the columns.
    """
    if row[column] is None:
        raise ValueError(f'nothing stands in "{column}"')
    if None in row:
        raise ValueError("there are more cells than columns")
    return row[column]


def _text(row: Row, column: str) -> str:
    found = _there(row, column)
    if not isinstance(found, str):
        raise ValueError(f'"{column}" is {found!r} and no text')
    return found


def _place(value: Any, count: int, column: str) -> int:
    """The place of the right one among so many, counted from 0."""
    found = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else -1
    if not 0 <= found < count:
        raise ValueError(f'"{column}" is {value!r}, and there are {count} to choose from')
    return found


def _letter(row: Row, column: str, allowed: Sequence[str]) -> str:
    found = _text(row, column).strip()
    if found not in list(allowed):
        raise ValueError(f'"{column}" is "{found}" and none of {", ".join(allowed)}')
    return found


def gsm8k(row: Row) -> Row:
    return {"question": _text(row, "question"), "answer": _text(row, "answer")}


def lettered(row: Row) -> Row:
    """MMLU: question, four answers, a letter."""
    choices = list(row.get("choices") or [_text(row, letter) for letter in LETTERS[:4]])
    letters = LETTERS[: len(choices)]
    is_number = isinstance(row["answer"], int)
    answer = (
        _place(row["answer"], len(choices), "answer") if is_number else letters.index(_letter(row, "answer", letters))
    )
    return {"question": _text(row, "question"), "choices": choices, "answer": answer}


def cmmlu(row: Row) -> Row:
    return {name: _text(row, name) for name in ("Question", "A", "B", "C", "D")} | {
        "Answer": _letter(row, "Answer", LETTERS[:4])
    }


def ceval(row: Row) -> Row | None:
    """The test split has no answers: those of its rows are left out."""
    if row.get("answer", "") == "":
        return None
    names = ("question", "A", "B", "C", "D")
    return {name: _text(row, name) for name in names} | {"answer": _letter(row, "answer", LETTERS[:4])}


def arc(row: Row) -> Row:
    if "choices" in row and isinstance(row["choices"], Mapping):
        key = _letter(row, "answerKey", row["choices"]["label"])
        return {"question": _text(row, "question"), "choices": row["choices"], "answerKey": key}
    labels = list(LETTERS[: len(row["choices"])])
    return {
        "question": _asked(_text(row, "query")),
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": labels[_place(row["gold"], len(labels), "gold")],
    }


def hellaswag(row: Row) -> Row | None:
    """The test split has no answers: "".

    From the text form the harness' own prompt comes back: what follows the last full stop there is `ctx_b`.
    """
    if row.get("label") == "":
        return None
    if "endings" in row:
        return {name: _there(row, name) for name in ("activity_label", "ctx_a", "ctx_b", "endings")} | {
            "label": str(_place(row["label"], len(row["endings"]), "label"))
        }
    if len(row["choices"]) < _ENDINGS:
        raise ValueError(f"there are {len(row['choices'])} endings, not {_ENDINGS}")
    label, _, context = _text(row, "query").partition(": ")
    before, stop, after = context.rpartition(". ")
    is_begun = bool(stop) and after[:1].islower() and context[-1:] not in ".!?"
    parts = (before + ".", after) if is_begun else (context, "")
    return {
        "activity_label": label,
        "ctx_a": parts[0],
        "ctx_b": parts[1],
        "endings": row["choices"],
        "label": str(_place(row["gold"], len(row["choices"]), "gold")),
    }


def piqa(row: Row) -> Row | None:
    """The test split has no answers: -1."""
    if row.get("label") == -1:
        return None
    if "goal" in row:
        texts = {name: _text(row, name) for name in ("goal", "sol1", "sol2")}
        return {**texts, "label": _place(row["label"], 2, "label")}
    first, second = row["choices"]
    goal, label = _asked(_text(row, "query")), _place(row["gold"], 2, "gold")
    return {"goal": goal, "sol1": first, "sol2": second, "label": label}


def winogrande(row: Row) -> Row | None:
    """The test split has no answers: ""."""
    if row.get("answer") == "":
        return None
    if "sentence" in row:
        texts = {name: _text(row, name) for name in ("sentence", "option1", "option2")}
        return {**texts, "answer": _letter(row, "answer", "12")}
    first, second = row["context_options"]
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    same = first.rfind(" ", 0, same) + 1
    return {
        "sentence": f"{first[:same]}_ {_text(row, 'continuation')}",
        "option1": first[same:],
        "option2": second[same:],
        "answer": str(_place(row["gold"], 2, "gold") + 1),
    }


def lambada(row: Row) -> Row:
    return {"text": _text(row, "text") if "text" in row else f"{_text(row, 'context')} {_text(row, 'continuation')}"}


def math(row: Row) -> Row | None:
    """A problem of the subject asked for; of any subject where none is."""
    subject = str(row.get("category") or row.get("type") or row.get("subject") or "")
    if row["_name"] and subject.lower().replace(" & ", "_and_").replace(" ", "_") != row["_name"]:
        return None
    solution = _text(row, "solution") if "solution" in row else _boxed(_text(row, "chain_of_thought"), row["answer"])
    return {"problem": _text(row, "problem" if "problem" in row else "context"), "solution": solution}


def _boxed(solution: str, answer: str) -> str:
    """The solution, with the answer in a box at the end where it has none."""
    return solution if "\\boxed" in solution else f"{solution} $\\boxed{{{answer}}}$"


def mbpp_split(row: Row) -> str:
    """By the number of the task, as its authors did."""
    number = int(row["task_id"])
    return "prompt" if number <= 10 else TEST if number <= 510 else VALIDATION if number <= 600 else TRAIN


def _asked(query: str) -> str:
    """The question alone: the harness' tasks put the words before it themselves."""
    return query.removeprefix("Question: ").strip()


MC = ("mc", "eval_mc")
SUBJECTS = ("**/{name}_dev.csv", "**/{name}_val.csv", "**/{name}_test.csv")
# Hub dataset that the harness' task names -> where its rows may lie instead
BENCHMARKS: dict[str, Benchmark] = {
    "openai/gsm8k": Benchmark(("gsm8k",), ("*train*.jsonl", "*test*.jsonl"), gsm8k),
    "cais/mmlu": Benchmark(
        ("mmlu", "eval_mmlu"),
        SUBJECTS,
        lettered,
        columns=("question", "A", "B", "C", "D", "answer"),
    ),
    "haonan-li/cmmlu": Benchmark(("cmmlu", "eval_cmmlu"), ("**/{name}.csv",), cmmlu),
    "ceval/ceval-exam": Benchmark(("ceval", "eval_ceval"), SUBJECTS, ceval),
    "allenai/ai2_arc": Benchmark(("arc", *MC), ("{name}*.jsonl",), arc),
    "Rowan/hellaswag": Benchmark(("hellaswag", "eval_hellaswag"), ("hellaswag*.jsonl", "hellaswag*.txt"), hellaswag),
    "baber/piqa": Benchmark(("piqa", *MC), ("piqa*.jsonl",), piqa),
    "allenai/winogrande": Benchmark(("winogrande", *MC), ("winogrande*.jsonl",), winogrande),
    "EleutherAI/lambada_openai": Benchmark(("lambada", *MC), ("lambada_openai*.jsonl",), lambada),
    "cimec/lambada": Benchmark(("lambada", *MC), ("lambada_standard*.jsonl",), lambada),
    "SaylorTwift/bbh": Benchmark(("bbh", "eval_bbh"), ("{name}.json", "bbh/{name}.json"), as_it_is("input", "target")),
    "EleutherAI/hendrycks_math": Benchmark(("math",), ("math_test*.jsonl", "math_train*.jsonl"), math),
    "HuggingFaceH4/MATH-500": Benchmark(("math",), ("math500*.jsonl",), math),
    "openai/openai_humaneval": Benchmark(
        ("humaneval",),
        ("HumanEval.jsonl*",),
        as_it_is("task_id", "prompt", "entry_point", "canonical_solution", "test"),
    ),
    "google-research-datasets/mbpp": Benchmark(
        ("mbpp",), ("mbpp.*jsonl",), as_it_is("task_id", "text", "code", "test_list"), split_of=mbpp_split
    ),
    "loubnabnl/humaneval_infilling": Benchmark(
        ("humaneval_infilling",),
        ("{name}.jsonl*",),
        as_it_is("task_id", "prompt", "suffix", "entry_point", "canonical_solution", "test"),
    ),
}
# what the harness calls a part -> what its files are called
_NAMES = {"ARC-Easy": "arc_easy", "ARC-Challenge": "arc_challenge"}
# several subjects in one file
_BY_SUBJECT = ("EleutherAI/hendrycks_math",)


def part_name(dataset: str, name: str | None) -> str:
    """The subject or part in the words of the files; empty where the dataset has one part only."""
    has_parts = dataset in _BY_SUBJECT or any("{name}" in pattern for pattern in BENCHMARKS[dataset].files)
    return _NAMES.get(name, name) if has_parts and name else ""
