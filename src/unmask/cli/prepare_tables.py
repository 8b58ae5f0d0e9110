"""`unmask prepare tables`: questions about tables -> a JSONL file of conversations. Parsing, printing and one file."""

from __future__ import annotations

import json
import os
import random
import sys
import typing
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from unmask.cli.config import Parsed, parse, say
from unmask.cli.options import Option, OptionTable
from unmask.data.table_text import Style
from unmask.errors import ConfigError, ResourceError, did_you_mean

GENERATED = "generated"
GENERATED_ROWS = 10_000
DOES = (
    "Write questions about tables as conversations, one JSON object per line. CORPUS is wikitablequestions, tabfact, "
    "fetaqa or tatqa, read from its released folder, or generated: invented tables with questions."
)
EXAMPLES = """\
examples:
  unmask prepare tables wikitablequestions --data_dir WikiTableQuestions --split training --output wtq-train.jsonl
  unmask prepare tables tabfact --data_dir Table-Fact-Checking --split val --output tabfact.jsonl --max_table_rows 20
  unmask prepare tables generated --split test --kinds look-up,count --rows 3,8 --limit 1000 --output questions.jsonl
"""


@dataclass(frozen=True)
class OutputArguments:
    """What is written"""

    output: str | None = None
    """File to write: NAME.jsonl."""
    split: str | None = None
    """Part of the corpus: training, pristine-seen-tables, random-split-1-dev, ... (wikitablequestions); train, val,
    test, simple_test, complex_test, pairs (tabfact); train, dev, test (fetaqa); train, dev, test_gold (tatqa); train
    or test (generated)."""
    style: Style = "markdown"
    """How a table is written: markdown, a line per row, or tagged, the one line [TAB] col: | a | b | [SEP] ..."""
    limit: int | None = None
    """So many questions at most, drawn by the seed and left in their order; generated: how many, 10000 unless given."""
    seed: int = 0
    """Of the draw, and of invented tables."""
    overwrite_cache: bool = False
    """Replace the output file where it exists."""
    json: bool = False
    """Print what was written as one JSON object."""


@dataclass(frozen=True)
class CorpusArguments:
    """Where a corpus lies, and how much of a long table is kept"""

    data_dir: str | None = None
    """Folder of the corpus as it was released; its tables may still be packed in a .tar.gz there."""
    max_table_rows: int | None = None
    """Rows of a table at most; further ones are left out and counted."""
    max_cells: int | None = None
    """Cells of a table at most, without the header; whole rows are left out and counted."""


def run(argv: list[str]) -> int:
    """Run `unmask prepare tables CORPUS`."""
    corpora = _corpora()
    corpus = argv[0] if argv and not argv[0].startswith("-") else None
    table = _generated_table() if corpus == GENERATED else _corpus_table()
    parsed = parse(argv, table)
    if parsed is None:
        print(EXAMPLES)
        return 0
    say(parsed.notes)
    if corpus not in corpora:
        raise ConfigError(_no_such_corpus(corpus, parsed.words, corpora))
    if len(parsed.words) > 1:
        raise ConfigError(f'"{parsed.words[1]}" belongs to no option. One corpus at a time: {", ".join(corpora)}.')
    output = _output(parsed)
    records = _invented(parsed) if corpus == GENERATED else _read(corpus, parsed)
    with _written_at_once(output) as write:
        summary = _write(records, write, corpus, parsed)
    _tell(summary | {"output": str(output)}, parsed["json"])
    return 0


def _corpora() -> tuple[str, ...]:
    from unmask.data.table_corpora import CORPORA

    return (*CORPORA, GENERATED)


def _no_such_corpus(corpus: str | None, words: tuple[str, ...], corpora: tuple[str, ...]) -> str:
    if corpus is None and words:
        return f"the corpus comes first: unmask prepare tables {words[0]} ... Corpora: {', '.join(corpora)}."
    if corpus is None:
        return f"no corpus is named. Corpora: {', '.join(corpora)}."
    return f'no corpus "{corpus}".{did_you_mean(corpus, corpora)} Corpora: {", ".join(corpora)}.'


def _corpus_table() -> OptionTable:
    return OptionTable("prepare tables", DOES, (OutputArguments, CorpusArguments), words="CORPUS")


def _generated_table() -> OptionTable:
    invented = ("How tables and questions are invented", tuple(_knobs()))
    return OptionTable("prepare tables", DOES, (OutputArguments,), (invented,), words=GENERATED)


def _knobs() -> Iterator[Option]:
    """The settings of the generator as options; those that every corpus has are left out."""
    from docstring_parser import parse_from_object

    from unmask.data.table_questions import MessageOptions
    from unmask.data.tables import TableOptions

    common = {entry.name for entry in fields(OutputArguments)}
    for cls in (TableOptions, MessageOptions):
        helps = {
            name.strip(): " ".join((entry.description or "").split())
            for entry in parse_from_object(cls).params
            for name in entry.arg_name.split(",")
        }
        types = typing.get_type_hints(cls)
        for entry in fields(cls):
            if entry.name not in common:
                default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
                yield Option(entry.name, _typed_on_a_line(types[entry.name]), default, helps.get(entry.name, ""))


def _typed_on_a_line(kind: Any) -> Any:
    """`tuple[...]` as a list, which an option may be; a list of one of several names as a list of names."""
    if typing.get_origin(kind) is not tuple:
        return kind
    member = typing.get_args(kind)[0]
    return list[str] if typing.get_origin(member) is Literal or member is str else list[member]


def _output(parsed: Parsed) -> Path:
    if not parsed["output"]:
        raise ConfigError("--output is missing. Name the file to write: --output questions.jsonl")
    output = Path(parsed["output"]).expanduser()
    if output.suffix != ".jsonl":
        raise ConfigError(f'--output {output}: the name must end in .jsonl; got "{output.suffix}".')
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder. Name a file in it: {output / 'questions.jsonl'}")
    if output.exists() and not parsed["overwrite_cache"]:
        raise ConfigError(f"--output {output} exists. Choose another name, or replace it: --overwrite_cache true")
    return output


def _read(corpus: str, parsed: Parsed) -> Iterator[dict[str, Any]]:
    from unmask.data.table_corpora import CorpusOptions, corpus_examples, corpus_record

    for name in ("data_dir", "split"):
        if not parsed[name]:
            raise ConfigError(f"--{name} is missing. Example: --data_dir FOLDER --split training")
    options = CorpusOptions(parsed["style"], parsed["max_table_rows"], parsed["max_cells"])
    examples = list(corpus_examples(corpus, parsed["data_dir"], parsed["split"]))
    return (corpus_record(corpus, examples[place], options) for place in _drawn(len(examples), parsed))


def _drawn(count: int, parsed: Parsed) -> list[int]:
    limit = parsed["limit"]
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}; it must be at least 1.")
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(parsed["seed"]).sample(range(count), limit))


def _invented(parsed: Parsed) -> Iterator[dict[str, Any]]:
    from unmask.data.table_questions import MessageOptions, message_records
    from unmask.data.tables import TableOptions

    split = parsed["split"] or "train"
    if split not in ("train", "test"):
        raise ConfigError(f'--split "{split}": invented tables are divided into train and test.')
    count = GENERATED_ROWS if parsed["limit"] is None else parsed["limit"]
    if count < 1:
        raise ConfigError(f"--limit is {count}; it must be at least 1.")
    records = message_records(
        _built(TableOptions, parsed), count, split=split, questions=_built(MessageOptions, parsed)
    )
    return (_with_its_question(record, f"{split}-{number}") for number, record in enumerate(records))


def _with_its_question(record: dict[str, Any], name: str) -> dict[str, Any]:
    """What the records of published corpora have beside the conversation too."""
    asked, answered = (message["content"] for message in record["messages"][-2:])
    beside = {"question": asked.rpartition("\n\n")[2], "answers": answered.split(", ")}
    known = {key: record[key] for key in ("table_id", "kind", "kinds") if key in record}
    return {"source": GENERATED, "id": name, **known, **beside, "messages": record["messages"]}


def _built(cls: type, parsed: Parsed) -> Any:
    return cls(**{entry.name: _value(entry.name, entry.default, parsed) for entry in fields(cls)})


def _value(name: str, default: Any, parsed: Parsed) -> Any:
    """An option's value as the generator takes it: one number of two stands for both, one name for a list of it."""
    value = parsed[name]
    if not isinstance(default, tuple):
        return value
    members = (value,) if isinstance(value, str) else tuple(value)
    if [type(member) for member in default] != [int, int]:
        return members
    if len(members) not in (1, 2):
        raise ConfigError(f"--{name} takes one number, or the least and the most: --{name} 2,6")
    return (members[0], members[-1])


def _write(records: Iterator[dict[str, Any]], write: Any, corpus: str, parsed: Parsed) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    tables: set[str] = set()
    shortened = left_out = 0
    for record in records:
        write(json.dumps(record, ensure_ascii=False) + "\n")
        kinds.update(record.get("kinds", [record.get("kind", "")]))
        tables.add(record["table_id"])
        shortened += record.get("rows_left_out", 0) > 0
        left_out += record.get("rows_left_out", 0)
    if not kinds:
        raise ConfigError("nothing to write: no question was found.")
    figures = {"questions": kinds.total(), "tables": len(tables), "shortened": shortened, "rows_left_out": left_out}
    split = parsed["split"] or "train"
    return {"corpus": corpus, "split": split, **figures, "kinds": dict(sorted(kinds.items())) if any(kinds) else {}}


@contextmanager
def _written_at_once(output: Path) -> Iterator[Any]:
    """A function that writes text to a file, which appears under its name when everything is written."""
    part = output.with_name(f"{output.name}.{os.getpid()}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as stream:
            yield stream.write
        os.replace(part, output)
    except OSError as error:
        raise ResourceError(f"cannot write {output}: {error.strerror or error}. Choose another --output.") from None
    finally:
        part.unlink(missing_ok=True)


def _tell(summary: dict[str, Any], as_json: bool) -> None:
    if summary["shortened"]:
        print(
            f"{summary['shortened']:,} of {summary['questions']:,} questions are about tables that were shortened: "
            f"{summary['rows_left_out']:,} rows left out, which may hold the answer",
            file=sys.stderr,
        )
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    print(f"{summary['questions']:,} questions about {summary['tables']:,} tables in {summary['output']}")
    for kind, count in summary["kinds"].items():
        print(f"  {kind or 'other':<14}{count:>8,}")
