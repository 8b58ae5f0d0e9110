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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import DataError

Row = dict[str, Any]
Splits = dict[str, list[Row]]
TRAIN, VALIDATION, TEST = "train", "validation", "test"
_SPLIT_WORDS = ((TRAIN, ("train",)), (VALIDATION, ("validation", "valid", "val")), ("dev", ("dev",)), (TEST, ("test",)))
LETTERS = "ABCDEFGHIJ"


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
        for number, row in enumerate(_rows(place, content, benchmark.columns), 1):
            try:
                turned = benchmark.row({**row, "_name": name})
            except (KeyError, ValueError, IndexError, TypeError) as error:
                raise DataError(
                    f"{place}, row {number}: not in a form that is known for it ({error!r}); it has the columns "
                    f"{', '.join(map(str, row))}. The forms that are read are listed in docs/evaluation.md."
                ) from None
            if turned is not None:
                split = benchmark.split_of(row) if benchmark.split_of else split_named(place, benchmark.split)
                splits.setdefault(split, []).append(turned)
    return splits


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


def _rows(place: str, text: str, columns: tuple[str, ...]) -> Iterable[Row]:
    """The rows of a file by its ending: .jsonl, .json (a list, or `examples`), .csv, .txt (blocks of six lines)."""
    name = place.removesuffix(".gz")
    try:
        if name.endswith(".csv"):
            return list(csv.DictReader(io.StringIO(text), fieldnames=columns or None))
        if name.endswith(".txt"):
            return _blocks(text.splitlines())
        if name.endswith(".jsonl"):
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        found = json.loads(text)
        return found["examples"] if isinstance(found, dict) else found
    except (csv.Error, ValueError, KeyError) as error:
        raise DataError(f"{place} cannot be read: {error}.") from None


def _blocks(lines: Sequence[str]) -> list[Row]:
    """HellaSwag as text: label and context, number of the right ending, four endings."""
    whole = range(0, len(lines) - 5, 6)
    return [{"query": lines[at], "gold": int(lines[at + 1]), "choices": lines[at + 2 : at + 6]} for at in whole]


def as_it_is(*columns: str) -> Callable[[Row], Row]:
    """Rows that must have these columns, and keep no others."""
    return lambda row: {column: row[column] for column in columns}


def gsm8k(row: Row) -> Row:
    return {"question": row["question"], "answer": row["answer"]}


def lettered(row: Row) -> Row:
    """MMLU: question, four answers, a letter."""
    choices = row.get("choices") or [row[letter] for letter in LETTERS[:4]]
    answer = row["answer"]
    return {
        "question": row["question"],
        "choices": list(choices),
        "answer": answer if isinstance(answer, int) else LETTERS.index(answer.strip()),
    }


def cmmlu(row: Row) -> Row:
    return {name: row[name] or "" for name in ("Question", "A", "B", "C", "D", "Answer")}


def ceval(row: Row) -> Row | None:
    """The test split has no answers: those of its rows are left out."""
    names = ("question", "A", "B", "C", "D", "answer")
    return {name: row[name] or "" for name in names} if row.get("answer") else None


def arc(row: Row) -> Row:
    if "choices" in row and isinstance(row["choices"], Mapping):
        return {name: row[name] for name in ("question", "choices", "answerKey")}
    labels = list(LETTERS[: len(row["choices"])])
    question = _asked(row["query"])
    return {
        "question": question,
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": labels[row["gold"]],
    }


def hellaswag(row: Row) -> Row:
    """From the text form the harness' own prompt comes back: what follows the last full stop there is `ctx_b`."""
    if "endings" in row:
        return {name: row[name] for name in ("activity_label", "ctx_a", "ctx_b", "endings")} | {
            "label": str(row["label"])
        }
    label, _, context = row["query"].partition(": ")
    before, stop, after = context.rpartition(". ")
    is_begun = bool(stop) and after[:1].islower() and context[-1:] not in ".!?"
    parts = (before + ".", after) if is_begun else (context, "")
    return {
        "activity_label": label,
        "ctx_a": parts[0],
        "ctx_b": parts[1],
        "endings": row["choices"],
        "label": str(row["gold"]),
    }


def piqa(row: Row) -> Row:
    if "goal" in row:
        return {name: row[name] for name in ("goal", "sol1", "sol2", "label")}
    first, second = row["choices"]
    return {"goal": _asked(row["query"]), "sol1": first, "sol2": second, "label": int(row["gold"])}


def winogrande(row: Row) -> Row:
    if "sentence" in row:
        return {name: row[name] for name in ("sentence", "option1", "option2", "answer")}
    first, second = row["context_options"]
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    same = first.rfind(" ", 0, same) + 1
    return {
        "sentence": f"{first[:same]}_ {row['continuation']}",
        "option1": first[same:],
        "option2": second[same:],
        "answer": str(row["gold"] + 1),
    }


def lambada(row: Row) -> Row:
    return {"text": row["text"] if "text" in row else f"{row['context']} {row['continuation']}"}


def math(row: Row) -> Row | None:
    """A problem of the subject asked for; of any subject where none is."""
    subject = str(row.get("category") or row.get("type") or row.get("subject") or "")
    if row["_name"] and subject.lower().replace(" & ", "_and_").replace(" ", "_") != row["_name"]:
        return None
    solution = row["solution"] if "solution" in row else _boxed(row["chain_of_thought"], row["answer"])
    return {"problem": row["problem"] if "problem" in row else row["context"], "solution": solution}


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
