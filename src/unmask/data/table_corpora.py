"""Published questions about tables -> `messages` records: WikiTableQuestions, TabFact, FeTaQA, TAT-QA.

A reader per corpus turns its released folder into `Example`s; one function writes any of them as a conversation.
Knows no tokenizer; how their files are opened is in `table_corpora_files`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from unmask.data.table_corpora_files import (
    Cells,
    CorpusFolder,
    read_csv,
    read_hash_separated,
    read_json,
    read_lines,
)
from unmask.data.table_corpora_tatqa import read_tatqa
from unmask.data.table_text import Style, serialise_rows
from unmask.errors import ConfigError, DataError, did_you_mean

_TABLES_KEPT = 4096  # questions about one table need not stand together


@dataclass(frozen=True)
class Example:
    """A question about a table.

    Attributes:
        id: of the question, in its corpus.
        table_id: of the table, in its corpus.
        cells: the header and the rows.
        question: or statement.
        answers: one or several.
        kind: of question, or of answer, where the corpus says.
        title: of the table, where there is one.
        canonical: the answers as numbers and dates, where the corpus has been tagged.
        text: around the table, where there is some.
        scale: what the answers count, where the corpus says: thousand, million, billion, percent.
    """

    id: str
    table_id: str
    cells: Cells
    question: str
    answers: tuple[str, ...]
    kind: str = ""
    title: str = ""
    canonical: tuple[str, ...] = ()
    text: str = ""
    scale: str = ""


@dataclass(frozen=True)
class CorpusOptions:
    """How examples become conversations.

    Attributes:
        style: of the table.
        max_table_rows, max_cells: rows beyond are left out, from the end, the first row never; None: all are kept.
    """

    style: Style = "markdown"
    max_table_rows: int | None = None
    max_cells: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_table_rows", "max_cells"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")

    def kept(self, rows: int, columns: int) -> int:
        """How many of a table's rows are shown."""
        limits = (rows, self.max_table_rows, self.max_cells and max(1, self.max_cells // max(1, columns)))
        return min(limit for limit in limits if limit is not None)


def corpus_examples(corpus: str, data_dir: str | Path, split: str) -> Iterator[Example]:
    """The questions of a split in the order of its file.

    Args:
        corpus: name in `CORPORA`.
        data_dir: the corpus's folder as it was released; its tables may still be packed.
        split: the name of a file there: `training`, `pristine-seen-tables`, `random-split-1-dev` (WikiTableQuestions);
            `train`, `val`, `test`, `simple_test`, `complex_test`, `pairs` (TabFact); `train`, `dev`, `test` (FeTaQA);
            `train`, `dev`, `test_gold` (TAT-QA).

    Raises:
        ConfigError: no such corpus.
        DataError: no such split, a missing table, a broken file.
    """
    if corpus not in CORPORA:
        raise ConfigError(f'no corpus "{corpus}"; corpora: {", ".join(CORPORA)}.{did_you_mean(corpus, CORPORA)}')
    return CORPORA[corpus](CorpusFolder(data_dir), split)


def corpus_record(corpus: str, example: Example, options: CorpusOptions) -> dict[str, Any]:
    """An example as a conversation, and what an evaluation wants to know beside it.

    `rows_left_out` counts the rows of the table that are not shown.
    """
    header, *rows = example.cells
    kept = options.kept(len(rows), len(header))
    table = serialise_rows(header, rows[:kept], options.style)
    asked = "\n\n".join(part for part in (example.title, table, example.text, example.question) if part)
    record: dict[str, Any] = {"source": corpus, "id": example.id, "table_id": example.table_id}
    if example.kind:
        record["kind"] = example.kind
    record |= {"question": example.question, "answers": list(example.answers)}
    if example.canonical:
        record["canonical"] = list(example.canonical)
    if example.scale:
        record["scale"] = example.scale
    answer = " ".join(part for part in (", ".join(example.answers), example.scale) if part)
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answer},
    ]
    return record | {"table_rows": len(rows), "rows_left_out": len(rows) - kept, "messages": messages}


# WikiTableQuestions


def _wikitablequestions(folder: CorpusFolder, split: str) -> Iterator[Example]:
    path = folder.split_file(split, ("data/*.tsv", "*.tsv", "data/*.examples", "*.examples"))
    tagged = _tagged(folder, split)
    read = _lisp_question if path.suffix == ".examples" else _tsv_reader()

    @lru_cache(_TABLES_KEPT)
    def table(name: str) -> Cells:
        at, text = folder.text(name, wanted_by=place)
        return read_csv(text, at)

    for place, line in read_lines(path):
        asked = read(place, line)
        if asked is None:
            continue
        question_id, question, context, answers = asked
        kind, canonical = tagged.get(question_id, ("", ()))
        yield Example(question_id, context, table(context), question, answers, kind, canonical=canonical)


Question = tuple[str, str, str, tuple[str, ...]]


def _tsv_reader() -> Callable[[str, str], Question | None]:
    columns: list[str] = []

    def read(place: str, line: str) -> Question | None:
        fields = line.split("\t")
        if not columns:
            columns.extend(fields)
            _require(columns, ("id", "utterance", "context", "targetValue"), place)
            return None
        row = _row(columns, fields, place)
        return row["id"], _unescaped(row["utterance"]), row["context"], _listed(row["targetValue"])

    return read


def _row(columns: list[str], fields: list[str], place: str) -> dict[str, str]:
    if len(fields) != len(columns):
        raise DataError(
            f"{place} has {len(fields)} fields between tabs, the header {len(columns)}. Copy the file again."
        )
    return dict(zip(columns, fields, strict=True))


def _require(columns: list[str], names: tuple[str, ...], place: str) -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(f"{place} is no header of this corpus: it lacks {', '.join(missing)}.")


def _unescaped(text: str) -> str:
    r"""`\n` is a line break, `\p` a bar, `\\` a backslash."""
    return re.sub(r"\\([np\\])", lambda found: {"n": "\n", "p": "|", "\\": "\\"}[found[1]], text)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(_unescaped(item) for item in text.split("|"))


def _tagged(folder: CorpusFolder, split: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Question -> kind of its answer and the canonical answers, where the split has been tagged."""
    path = folder.find(*(f"{place}{split}.tagged" for place in ("tagged/data/", "tagged/", "data/", "")))
    if path is None:
        return {}
    columns: list[str] = []
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for place, line in read_lines(path):
        if not columns:
            columns = line.split("\t")
            _require(columns, ("id", "targetCanon", "targetCanonType"), place)
            continue
        row = _row(columns, line.split("\t"), place)
        found[row["id"]] = (row["targetCanonType"], _listed(row["targetCanon"]))
    return found


_TEXT = r'"((?:[^"\\]|\\.)*)"'
_LISP = {
    "id": re.compile(r"\(id ([^\s()]+)\)"),
    "utterance": re.compile(rf"\(utterance {_TEXT}\)"),
    "context": re.compile(r"\(context \(graph \S+ ([^\s()]+)\)\)"),
    "targetValue": re.compile(r"\(targetValue \(list (.*)\)\)"),
}


def _lisp_question(place: str, line: str) -> Question | None:
    """A line of a `.examples` file: `(example (id nt-0) (utterance "...") (context ...) (targetValue (list ...)))`."""
    if line.lstrip().startswith((";", "#")):
        return None
    found = {name: pattern.search(line) for name, pattern in _LISP.items()}
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise DataError(f"{place} is no example: ({missing[0]} ...) is missing. Copy the file again.")
    id_, utterance, context, values = (match[1] for match in found.values() if match)
    answers = re.findall(rf"\(description (?:{_TEXT}|([^\s()]+))\)", values)
    return id_, _plain(utterance), context, tuple(_plain(quoted or bare) for quoted, bare in answers)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)


# TabFact

_STATEMENTS = ("tokenized_data/*_examples.json", "*_examples.json")
_PAIRS = ("pairwise_train_pairs.json", "pairwise_data/all_positive_negative_pairs.json")
_ANSWERS = ("no", "yes")


def _tabfact(folder: CorpusFolder, split: str) -> Iterator[Example]:
    statements = _pairs(folder) if split == "pairs" else _statements(folder, split)
    simple, complex_ = (_ids(folder, name) or set() for name in ("simple", "complex"))

    @lru_cache(_TABLES_KEPT)
    def table(name: str) -> Cells:
        at, text = folder.text(f"data/all_csv/{name}", f"all_csv/{name}", wanted_by=f"statements about {name}")
        return read_hash_separated(text, at)

    for name, number, statement, label, caption in statements:
        kind = "simple" if name in simple else "complex" if name in complex_ else "verification"
        yield Example(
            f"{name}#{number}", name, table(name), f"Is this true? {statement}", (_ANSWERS[label],), kind, caption
        )


Statement = tuple[str, int, str, int, str]


def _statements(folder: CorpusFolder, split: str) -> Iterator[Statement]:
    part, _, whole = split.rpartition("_")
    path = folder.split_file(whole if part in ("simple", "complex") else split, _STATEMENTS)
    tables = read_json(path, dict, "tables with their statements")
    chosen = _ids(folder, part) if part in ("simple", "complex") else None
    if part in ("simple", "complex") and chosen is None:
        raise DataError(f'split "{split}" needs data/{split}_id.json in {folder.path}, and there is none.')
    for name, entry in tables.items():
        if chosen is not None and name not in chosen:
            continue
        statements, labels, caption = _checked_entry(entry, f"{path}: table {name}")
        for number, (statement, label) in enumerate(zip(statements, labels, strict=True)):
            yield name, number, statement, label, caption


def _checked_entry(entry: Any, where: str) -> tuple[list[str], list[int], str]:
    match entry:
        case [list(statements), list(labels), str(caption)] if (
            len(statements) == len(labels)
            and all(isinstance(text, str) for text in statements)
            and all(type(label) is int and label in (0, 1) for label in labels)
        ):
            return statements, labels, caption
    raise DataError(f"{where}: expected [statements, labels 0 or 1 for each, caption]. Copy the file again.")


def _pairs(folder: CorpusFolder) -> Iterator[Statement]:
    """Statements written in pairs, one true and one not, of training tables."""
    path = folder.find(*_PAIRS)
    if path is None:
        raise DataError(f'split "pairs" needs {" or ".join(_PAIRS)} in {folder.path}, and there is none.')
    training = None
    if path.name != _PAIRS[0]:
        ids = folder.find("data/train_id.json")
        if ids is None:
            raise DataError(f"{path} has tables of all splits; data/train_id.json, which says which, is missing.")
        training = set(read_json(ids, list, "a list of tables"))
    for number, entry in enumerate(read_json(path, list, "triples of table, true and untrue statement")):
        if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(text, str) for text in entry):
            raise DataError(f"{path}: entry {number + 1} is no [table, true statement, untrue statement].")
        name, right, wrong = entry
        if training is None or name in training:
            yield from ((name, 2 * number, right, 1, ""), (name, 2 * number + 1, wrong, 0, ""))


def _ids(folder: CorpusFolder, part: str) -> set[str] | None:
    """Tables whose statements are simple, or complex, as far as the folder says; None where it does not."""
    paths = (folder.find(f"data/{name}", name) for name in (f"{part}_ids.json", f"{part}_test_id.json"))
    found = [set(read_json(path, list, "a list of tables")) for path in paths if path is not None]
    return set().union(*found) if found else None


# FeTaQA


def _fetaqa(folder: CorpusFolder, split: str) -> Iterator[Example]:
    path = folder.split_file(split, ("fetaQA-v1_*.jsonl", "data/fetaQA-v1_*.jsonl"))
    for place, line in read_lines(path):
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as problem:
            raise DataError(f"{place}:{problem.colno} invalid JSON: {problem.msg}. Copy the file again.") from None
        if not isinstance(fields, dict):
            raise DataError(f"{place} is no JSON object. Copy the file again.")
        yield _fetaqa_example(place, fields)


def _fetaqa_example(where: str, fields: dict[str, Any]) -> Example:
    cells: Any = fields.get("table_array")
    if not _is_table(cells):
        raise DataError(f'{where} "table_array" must be rows of strings, as many in each row. Copy the file again.')
    texts = {}
    for name in ("question", "answer", "table_page_title", "table_section_title"):
        texts[name] = fields.get(name, "" if name.startswith("table") else None)
        if not isinstance(texts[name], str):
            raise DataError(f'{where} "{name}" must be a string. Copy the file again.')
    title = ": ".join(part for part in (texts["table_page_title"], texts["table_section_title"]) if part)
    table_id = str(fields.get("table_source_json", fields.get("feta_id", where)))
    question_id = str(fields.get("feta_id", where))
    return Example(question_id, table_id, cells, texts["question"], (texts["answer"],), title=title)


def _is_table(cells: Any) -> bool:
    if not isinstance(cells, list) or not cells or not all(isinstance(row, list) for row in cells):
        return False
    widths = {len(row) for row in cells}
    return len(widths) == 1 and all(isinstance(cell, str) for row in cells for cell in row)


# TAT-QA


def _tatqa(folder: CorpusFolder, split: str) -> Iterator[Example]:
    for asked in read_tatqa(folder, split):
        shown = (asked.id, asked.table_id, asked.cells, asked.question, asked.answers, asked.kind)
        yield Example(*shown, text=asked.text, scale=asked.scale)


CORPORA: dict[str, Callable[[CorpusFolder, str], Iterator[Example]]] = {
    "wikitablequestions": _wikitablequestions,
    "tabfact": _tabfact,
    "fetaqa": _fetaqa,
    "tatqa": _tatqa,
}
