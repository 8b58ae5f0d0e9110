"""Released folders of WikiTableQuestions, TabFact, FeTaQA and TAT-QA: what is read, and what is said of broken ones."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from unmask.data.table_corpora import CorpusOptions, corpus_examples, corpus_record
from unmask.errors import ConfigError, DataError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


HEADER = "id\tutterance\tcontext\ttargetValue\n"


@pytest.fixture
def wtq(tmp_path: Path) -> Path:
    write(
        tmp_path / "csv/200-csv/1.csv",
        '"Name","A ""odd"" head"\n"says \\"hi\\", twice","back\\\\slash"\n"é","2"\n'.replace('""', '\\"'),
    )
    write(tmp_path / "data/training.tsv", HEADER + "nt-0\twho?\tcsv/200-csv/1.csv\ta\\pb|c\\nd|e\\\\n\n")
    return tmp_path


def test_wikitablequestions_escapes(wtq: Path) -> None:
    (example,) = corpus_examples("wikitablequestions", wtq, "training")
    assert example.cells == [["Name", 'A "odd" head'], ['says "hi", twice', "back\\slash"], ["é", "2"]]
    assert example.answers == ("a|b", "c\nd", "e\\n")
    assert (example.id, example.table_id, example.kind, example.canonical) == ("nt-0", "csv/200-csv/1.csv", "", ())


def test_wikitablequestions_tags_and_packed_tables(wtq: Path) -> None:
    with tarfile.open(wtq / "tables.tar.gz", "w:gz") as archive:
        archive.add(wtq / "csv", "./csv")
    (wtq / "csv/200-csv/1.csv").unlink()
    tagged = "id\ttargetCanon\ttargetCanonType\nnt-0\tx|2001-02-xx|3.0\tmixed\n"
    write(wtq / "tagged/data/training.tagged", tagged)
    (example,) = corpus_examples("wikitablequestions", wtq, "training")
    assert example.cells[2] == ["é", "2"]
    assert (example.kind, example.canonical) == ("mixed", ("x", "2001-02-xx", "3.0"))


def test_wikitablequestions_in_its_other_notation(wtq: Path) -> None:
    line = (
        '(example (id nt-7) (utterance "who said \\"no\\"?") (context (graph tables.TableKnowledgeGraph '
        'csv/200-csv/1.csv)) (targetValue (list (description "a (b)") (description 12))))\n'
    )
    write(wtq / "data/random-split-1-dev.examples", line)
    (example,) = corpus_examples("wikitablequestions", wtq, "random-split-1-dev")
    assert (example.id, example.question, example.answers) == ("nt-7", 'who said "no"?', ("a (b)", "12"))
    assert example.cells[0][0] == "Name"


@pytest.fixture
def tabfact(tmp_path: Path) -> Path:
    write(tmp_path / "data/all_csv/1.html.csv", "a#b c\n1#x, y\n2#\n")
    write(tmp_path / "data/all_csv/2.html.csv", "a\nz\n")
    entries = {"1.html.csv": [["s one", "s two"], [1, 0], "cap"], "2.html.csv": [["s three"], [0], ""]}
    write(tmp_path / "tokenized_data/test_examples.json", json.dumps(entries))
    write(tmp_path / "data/simple_test_id.json", json.dumps(["1.html.csv"]))
    write(tmp_path / "data/complex_test_id.json", json.dumps(["2.html.csv"]))
    return tmp_path


def test_tabfact_statements(tabfact: Path) -> None:
    first, second, third = corpus_examples("tabfact", tabfact, "test")
    assert first.cells == [["a", "b c"], ["1", "x, y"], ["2", ""]]
    assert (first.answers, second.answers, first.kind, third.kind) == (("yes",), ("no",), "simple", "complex")
    record = corpus_record("tabfact", second, CorpusOptions("tagged"))
    asked, answered = record["messages"]
    assert asked["content"] == "cap\n\n[TAB] col: | a | b c | [SEP] | 1 | x, y | [SEP] | 2 |  |\n\nIs this true? s two"
    assert answered["content"] == "no" and record["id"] == "1.html.csv#1"
    assert [example.id for example in corpus_examples("tabfact", tabfact, "complex_test")] == ["2.html.csv#0"]


def test_tabfact_pairs_keep_to_training_tables(tabfact: Path) -> None:
    pairs = [["1.html.csv", "right", "wrong"], ["2.html.csv", "of a test table", "also"]]
    path = write(tabfact / "pairwise_data/all_positive_negative_pairs.json", json.dumps(pairs))
    with pytest.raises(DataError, match="train_id.json, which says which, is missing"):
        list(corpus_examples("tabfact", tabfact, "pairs"))
    write(tabfact / "data/train_id.json", '["1.html.csv"]')
    found = [(example.question, example.answers[0]) for example in corpus_examples("tabfact", tabfact, "pairs")]
    assert found == [("Is this true? right", "yes"), ("Is this true? wrong", "no")]
    path.rename(tabfact / "pairwise_train_pairs.json")
    assert len(list(corpus_examples("tabfact", tabfact, "pairs"))) == 4


FETAQA = {
    "feta_id": 5,
    "table_source_json": "t/5",
    "table_page_title": "Page",
    "table_section_title": "Section",
    "table_array": [["h"], ["1"], ["2"]],
    "question": "q?",
    "answer": "It is 2.",
}


def test_fetaqa(tmp_path: Path) -> None:
    write(tmp_path / "data/fetaQA-v1_dev.jsonl", json.dumps(FETAQA) + "\n")
    (example,) = corpus_examples("fetaqa", tmp_path, "dev")
    record = corpus_record("fetaqa", example, CorpusOptions())
    assert record["messages"][0]["content"] == "Page: Section\n\n| h |\n| --- |\n| 1 |\n| 2 |\n\nq?"
    assert (record["id"], record["table_id"], record["answers"]) == ("5", "t/5", ["It is 2."])


@pytest.mark.parametrize(
    ("options", "shown", "left_out"),
    [
        (CorpusOptions(), 5, 0),
        (CorpusOptions(max_table_rows=3), 3, 2),
        (CorpusOptions(max_cells=9), 4, 1),
        (CorpusOptions(max_table_rows=1, max_cells=9), 1, 4),
        (CorpusOptions(max_cells=1), 1, 4),
    ],
)
def test_long_tables_are_cut_and_counted(tmp_path: Path, options: CorpusOptions, shown: int, left_out: int) -> None:
    row = {**FETAQA, "table_array": [["h", "i"], *(["1", "2"] for _ in range(5))]}
    write(tmp_path / "fetaQA-v1_dev.jsonl", json.dumps(row))
    (example,) = corpus_examples("fetaqa", tmp_path, "dev")
    record = corpus_record("fetaqa", example, options)
    assert record["messages"][0]["content"].count("| 1 | 2 |") == shown
    assert record["messages"][0]["content"].endswith("\n\nq?")
    assert (record["table_rows"], record["rows_left_out"]) == (5, left_out)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("csv/200-csv/1.csv", '"a","b"\n"1"\n', "1.csv:2 has 1 cells, the header 2"),
        ("csv/200-csv/1.csv", '"a","b\n', "1.csv:1 cannot be read as csv"),
        ("csv/200-csv/1.csv", "", "holds no table"),
        ("csv/200-csv/1.csv", b'"a"\n"\xff"\n', "1.csv byte 6: not valid UTF-8"),
        ("data/training.tsv", HEADER + "nt-0\twho?\n", "training.tsv:2 has 2 fields between tabs, the header 4"),
        ("data/training.tsv", "id\tutterance\n", "training.tsv:1 is no header of this corpus: it lacks context"),
        ("data/training.tsv", HEADER + "n\tw\tcsv/9.csv\tx\n", "training.tsv:2: there is no csv/9.csv"),
        ("data/training.tsv", HEADER.encode() + b"n\t\xff\tcsv/9.csv\tx\n", "training.tsv:2 byte 3: not valid UTF-8"),
        ("tagged/training.tagged", "id\n", "lacks targetCanon"),
        ("tables.tar.gz", b"no archive", "tables.tar.gz cannot be read"),
    ],
)
def test_broken_wikitablequestions(wtq: Path, file: str, content: str | bytes, said: str) -> None:
    if file.endswith(".gz"):
        (wtq / "csv/200-csv/1.csv").unlink()
    write(wtq / file, content)
    with pytest.raises(DataError) as told:
        list(corpus_examples("wikitablequestions", wtq, "training"))
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("data/all_csv/1.html.csv", "a#b\n1\n", "1.html.csv:2 has 1 cells, the header 2"),
        (
            "tokenized_data/test_examples.json",
            '{"1.html.csv": [["s"], [1, 0], ""]}',
            "table 1.html.csv: expected [statem",
        ),
        ("tokenized_data/test_examples.json", '{"1.html.csv": [["s"], [2], ""]}', "labels 0 or 1"),
        ("tokenized_data/test_examples.json", '{"a": \n', "test_examples.json:2:1 invalid JSON"),
        ("tokenized_data/test_examples.json", "[]", "holds a list; expected tables"),
    ],
)
def test_broken_tabfact(tabfact: Path, file: str, content: str, said: str) -> None:
    write(tabfact / file, content)
    with pytest.raises(DataError) as told:
        list(corpus_examples("tabfact", tabfact, "test"))
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"table_array": [["a"], ["1", "2"]]}, '.jsonl:1 "table_array" must be rows'),
        ({"table_array": []}, '"table_array" must be rows'),
        ({"answer": None}, '"answer" must be a string'),
    ],
)
def test_broken_fetaqa(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = write(tmp_path / "fetaQA-v1_dev.jsonl", json.dumps({**FETAQA, **change}))
    with pytest.raises(DataError) as told:
        list(corpus_examples("fetaqa", tmp_path, "dev"))
    assert said in str(told.value)
    path.write_text(json.dumps(FETAQA) + "\n{broken\n")
    with pytest.raises(DataError, match="jsonl:2:2 invalid JSON"):
        list(corpus_examples("fetaqa", tmp_path, "dev"))


def test_what_does_not_exist(wtq: Path) -> None:
    with pytest.raises(ConfigError, match='Did you mean "tabfact"'):
        corpus_examples("tabfct", wtq, "x")
    with pytest.raises(DataError, match='splits there: training. Did you mean "training"'):
        list(corpus_examples("wikitablequestions", wtq, "trainin"))
    with pytest.raises(DataError, match="is no folder"):
        list(corpus_examples("wikitablequestions", wtq / "nowhere", "training"))
    with pytest.raises(ConfigError, match="max_cells is 0"):
        CorpusOptions(max_cells=0)


@pytest.mark.parametrize(
    ("corpus", "split", "questions", "tables"),
    [
        ("wikitablequestions", "training", 14152, None),
        ("wikitablequestions", "pristine-seen-tables", 3537, None),
        ("wikitablequestions", "random-split-1-dev", 2831, None),
        ("tabfact", "val", 12792, 1696),
        ("tabfact", "pairs", 2 * 8827, None),
        ("fetaqa", "dev", 1001, None),
        ("fetaqa", "test.first1000", 1000, None),
    ],
)
def test_released_corpora_have_as_many_rows_as_their_papers_say(
    shared: Path, corpus: str, split: str, questions: int, tables: int | None
) -> None:
    folder = shared / "data" / corpus
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    examples = list(corpus_examples(corpus, folder, split))
    assert len(examples) == questions == len({example.id for example in examples})
    assert tables is None or len({example.table_id for example in examples}) == tables
    if split == "val":
        assert Counter(example.answers[0] for example in examples)["yes"] == 6478


def tatqa_context(**changes: object) -> dict[str, object]:
    asked = {"uid": "q1", "question": "How much?", "answer": -12.6, "answer_type": "arithmetic", "scale": "million"}
    return {
        "table": {"uid": "t1", "table": [["", "2019"], ["Sales", "44.1", "x"]]},
        "paragraphs": [{"order": 2, "text": "Second."}, {"order": 1, "text": "First."}],
        "questions": [
            {**asked, **changes},
            {**asked, "uid": "q2", "answer": ["a", "b"], "answer_type": "multi-span", "scale": ""},
            {**asked, "uid": "q3", "answer": "2.0".removesuffix(".0"), "answer_type": "count", "scale": ""},
        ],
    }


def test_tatqa_has_text_around_its_tables_and_scales(tmp_path: Path) -> None:
    write(tmp_path / "tatqa_dataset_dev.json", json.dumps([tatqa_context()]))
    first, second, third = corpus_examples("tatqa", tmp_path, "dev")
    assert (first.cells, first.answers, first.kind) == (
        [["", "2019", ""], ["Sales", "44.1", "x"]],
        ("-12.6",),
        "arithmetic",
    )
    record = corpus_record("tatqa", first, CorpusOptions())
    assert record["messages"][0]["content"].endswith("| Sales | 44.1 | x |\n\nFirst.\nSecond.\n\nHow much?")
    assert record["messages"][1]["content"] == "-12.6 million" and record["scale"] == "million"
    assert corpus_record("tatqa", second, CorpusOptions())["messages"][1]["content"] == "a, b"
    assert "scale" not in corpus_record("tatqa", third, CorpusOptions()) and third.answers == ("2",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": None}, 'context 1, question 1: "answer" must be texts, or a number'),
        ({"answer": "many", "answer_type": "count"}, '"answer" must be texts, or a number'),
        ({"scale": "dozen"}, "question 1: expected uid, question, answer, answer_type and scale"),
    ],
)
def test_tatqa_says_what_is_broken(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    write(tmp_path / "tatqa_dataset_dev.json", json.dumps([tatqa_context(**changes)]))
    with pytest.raises(DataError, match=said):
        list(corpus_examples("tatqa", tmp_path, "dev"))


def test_all_of_tatqa_is_read(shared: Path) -> None:
    examples = list(corpus_examples("tatqa", shared / "data/tatqa", "dev"))
    # counted by its authors: 278 tables; the arithmetic questions are 43 per cent
    assert len(examples) == 1668 and len({example.table_id for example in examples}) == 278
    assert Counter(example.kind for example in examples)["arithmetic"] == 718
