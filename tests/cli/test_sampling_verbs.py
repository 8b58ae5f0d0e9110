"""`generate`, `infill`, `chat` end to end on a tiny model with random weights: flags, inputs, outputs, refusals."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest

from tests.tiny import write_checkpoint, write_left_to_right
from unmask.cli import chat as chat_verb
from unmask.cli import generate as generate_verb
from unmask.cli import sampling
from unmask.cli.chat import Chat
from unmask.cli.main import main
from unmask.generation.options import GenerationOptions
from unmask.lm import load
from unmask.models.adapters import LoraSettings, attach_lora
from unmask.models.folders import EXAMPLES

SHORT = ("--max_new_tokens", "6", "--steps", "3", "--block_size", "6")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def lm(model):
    return load(model, device="cpu")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a verb with a given stdin; its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str, stdin: str | bytes = ""):
        raw = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        code = main(list(argv))
        told = capsys.readouterr()
        return SimpleNamespace(code=code, out=told.out, err=told.err)

    return call


def texts(result) -> list[str]:
    return [row["text"] for row in json.loads(result.out)["results"]]


def wanted(lm, prompts, **settings) -> list[str]:
    options = {"max_new_tokens": 6, "steps": 3, "block_size": 6, **settings}
    return [result.text for result in lm.generate(prompts, **options)]


def test_every_way_to_give_a_prompt_is_the_same(model, lm, run, tmp_path) -> None:
    (tmp_path / "prompts.txt").write_text("one, two\n\n--three\n", "utf-8")
    expected = wanted(lm, ["one, two", "--three"])
    base = ("generate", "--model_name_or_path", model, *SHORT, "--json")
    ways = (
        ("--prompt", "one, two", "--prompt", "--three"),
        ("--prompt=one, two", "--", "--three"),
        ("one, two", "--prompt", "--three"),
        ("--prompt_file", "prompts.txt"),
    )
    for way in ways:
        assert texts(run(*base, *way)) == expected, way
    assert texts(run(*base, stdin="one, two\n")) == wanted(lm, ["one, two"])


def test_a_text_and_its_continuation_are_printed_as_one(model, lm, run) -> None:
    result = run("generate", "--model_name_or_path", model, *SHORT, "ab", "cd")
    first, second = wanted(lm, ["ab", "cd"])
    assert result.out == f"ab{first}\n\ncd{second}\n"
    assert "tokens, 3 forwards" in result.err


def test_conversations_and_templates(model, lm, run, tmp_path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    expected = wanted(lm, [messages])
    assert expected != wanted(lm, ["hello"])
    (tmp_path / "talk.json").write_text(json.dumps({"messages": messages}), "utf-8")
    base = ("generate", "--model_name_or_path", model, *SHORT, "--json")
    assert texts(run(*base, "--messages", json.dumps(messages))) == expected
    assert texts(run(*base, "--messages", "talk.json")) == expected
    assert texts(run(*base, "--messages", json.dumps({"messages": messages}))) == expected
    assert texts(run(*base, "--chat_template", "true", "hello")) == expected
    assert texts(run(*base, "--chat_template", "False", "hello")) == wanted(lm, ["hello"])


def test_spellings_of_the_parents(model, lm, run) -> None:
    parents = ("--steps", "3", "--gen_length", "6", "--block_length", "6", "--remasking", "low_confidence")
    result = run("generate", "--model", model, *parents, "--cfg_scale", "0.5", "--visualize", "True", "--json", "hi")
    assert texts(result) == wanted(lm, ["hi"], guidance_scale=0.5)
    assert "-- step 0, 0/6 tokens" in result.err
    # of other spellings there is a note, of our own short form there is none
    assert "note: cfg_scale is read as guidance_scale" in result.err and "note: model " not in result.err


def test_without_a_prompt_both_tasks_are_shown(model, run) -> None:
    result = run("generate", "--model_name_or_path", model, *SHORT)
    shown = generate_verb.OF_ANYTHING
    assert all(text in result.out for text in (*shown.prompts, *shown.blanks))
    as_json = run("generate", "--model_name_or_path", model, *SHORT, "--json")
    rows = json.loads(as_json.out)["results"]
    assert [row["prompt"] for row in rows] == [*shown.prompts, *shown.blanks]
    assert rows[2]["text"].startswith("The capital of France is") and "[MASK]" not in rows[2]["text"]


def test_without_a_prompt_blanks_are_left_out_where_they_cannot_be_filled(model, run, tmp_path) -> None:
    pytest.importorskip("outlines_core", reason="the extra `grammar` is not installed")
    shown = generate_verb.OF_ANYTHING
    left_to_right = str(write_left_to_right(tmp_path / "llama"))
    for argv in (("--model", left_to_right), ("--model", model, "--regex", "(yes|no)")):
        result = run("generate", *argv, *SHORT)
        assert result.code == 0 and all(text in result.out for text in shown.prompts), result.err
        assert "Blanks" not in result.out
        rows = json.loads(run("generate", *argv, *SHORT, "--json").out)["results"]
        assert [row["prompt"] for row in rows] == list(shown.prompts)
    assert all(row["text"] in ("yes", "no") for row in rows)


def test_a_schema_may_be_a_mapping_in_a_file(model, run, tmp_path) -> None:
    pytest.importorskip("outlines_core", reason="the extra `grammar` is not installed")
    schema = {"type": "object", "properties": {"n": {"enum": [1, "zwö"]}}, "required": ["n"]}
    asked = "generate:\n  json_schema:\n    type: object\n    properties: {n: {enum: [1, zwö]}}\n    required: [n]\n"
    (tmp_path / "a.yaml").write_text(asked, "utf-8")
    base = ("generate", "--model", model, "--max_new_tokens", "16", "--json", "hi")
    found = run(*base, "--config", "a.yaml")
    assert found.code == 0, found.err
    assert texts(found) == texts(run(*base, "--json_schema", json.dumps(schema)))
    assert json.loads(texts(found)[0])["n"] in (1, "zwö")


@pytest.fixture
def small_base(monkeypatch, tmp_path_factory) -> str:
    """A stand-in for the model of the package, with room for a table in its one-byte tokens."""
    folder = write_checkpoint(tmp_path_factory.mktemp("base"), max_sequence_length=512)
    monkeypatch.setitem(EXAMPLES, "base", (str(folder),))
    return str(folder)


def test_without_a_model_the_small_base_writes_and_it_is_said(small_base, run, tmp_path) -> None:
    few = ("--max_new_tokens", "4", "--steps", "2")
    for verb, rest, stdin in (
        ("generate", ("ab", "--json", *few), ""),
        ("infill", ("a[MASK]b", "--json", "--steps", "2"), ""),
        ("chat", few, "hello\n"),
    ):
        unnamed, named = (run(verb, *rest, stdin=stdin), run(verb, *rest, "--model", small_base, stdin=stdin))
        assert unnamed.code == named.code == 0
        assert _without_seconds(unnamed.out) == _without_seconds(named.out)
        (line,) = unnamed.err.splitlines()
        assert line.startswith("example:base writes: ") and "never a question" in line and "--model" in line
        assert "example:base" not in named.err


def test_the_small_base_shows_what_it_has_read(small_base, run) -> None:
    result = run("generate", "--max_new_tokens", "4", "--steps", "2", "--json")
    shown = generate_verb.OF_TABLES
    assert [row["prompt"] for row in json.loads(result.out)["results"]] == [*shown.prompts, *shown.blanks]
    assert len(shown.prompts) == 2 and "[MASK]" in shown.blanks[0]


def test_an_adapter_alone_brings_its_base(model, run, tmp_path) -> None:
    adapted = load(model, device="cpu")
    attach_lora(adapted.model, LoraSettings(r=2))
    adapted.save(tmp_path / "adapter")
    result = run("generate", *SHORT, "--json", "--adapter", "adapter", "ab")
    assert texts(result) == wanted(adapted, ["ab"]) and "example:base" not in result.err


def _without_seconds(out: str) -> object:
    return json.loads(out)["results"] if out.startswith("{") else out


def test_the_seed_counts_when_sampling(model, run) -> None:
    base = ("generate", "--model_name_or_path", model, *SHORT, "--json", "--temperature", "1", "ab", "--seed")
    assert texts(run(*base, "1")) == texts(run(*base, "1")) != texts(run(*base, "2"))


def test_figures_in_json(model, run) -> None:
    (row,) = json.loads(run("generate", "--model_name_or_path", model, *SHORT, "--json", "abcd").out)["results"]
    assert row["forwards"] == {"denoise": 3, "commit": 0, "refresh": 0}
    assert row["positions"] == 3 * 10
    assert row["prompt"] == "abcd" and row["finish_reason"] in ("stop", "length")


def test_a_trace_replays_to_the_result(model, run, tmp_path) -> None:
    result = run("infill", "--model_name_or_path", model, "a[MASK]b[MASK]", "--trace", "t.json", "--json")
    trace = json.loads((tmp_path / "t.json").read_text("utf-8"))
    (row,) = trace["rows"]
    tokens = list(row["token_ids"])
    assert [trace["tokens"][str(tokens[place])] for place in row["masked"]] == [trace["mask_token"]] * 2
    for commit in row["commits"]:
        for place, token in zip(commit["positions"], commit["token_ids"], strict=True):
            tokens[place] = token
    assert tokens == json.loads(result.out)["results"][0]["token_ids"]


def test_infill_changes_blanks_only(model, lm, run) -> None:
    result = run("infill", "--model_name_or_path", model, "the [MASK][MASK] end", "--text", "[MASK]x")
    first, second = result.out.splitlines()
    assert first.startswith("the ") and first.endswith(" end") and "[MASK]" not in first
    assert second.endswith("x")
    expected = [done.text for done in lm.infill(["the [MASK][MASK] end", "[MASK]x"])]
    assert [first, second] == expected


def test_blanks_of_open_length_templates_and_what_is_between(model, lm, run, tmp_path) -> None:
    base = ("infill", "--model_name_or_path", model)
    assert run(*base, "a [MASK:1-3]b").out == f"{lm.infill('a [MASK:1-3]b')[0].text}\n"
    template = '{"name": "{name:3}", "x": {}}'
    filled = lm.fill_template(template)[0]
    (tmp_path / "t.json").write_text(f"{template}\n")
    for given in (template, "t.json"):
        assert json.loads(run(*base, "--template", given).out) == filled.fields
    (row,) = json.loads(run(*base, "--template", template, "--json").out)["results"]
    assert (row["text"], row["fields"], row["written"]) == (filled.text, filled.fields, list(filled.written))
    middle = lm.infill(prefix="-- f(\n", suffix="\n)", tokens=4)[0].written[0]
    (tmp_path / "end.txt").write_text("\n)")
    for suffix in ("\n)", "@end.txt"):
        result = run(*base, "--prefix", "-- f(\n", "--suffix", suffix, "--tokens", "4")
        assert result.out == f"{middle}\n" and "4 tokens" in result.err


def test_stop_strings(model, lm, run) -> None:
    prompt, whole = next((text, found) for text in ("hello", "ab", "cd", "hi") if (found := wanted(lm, [text])[0]))
    stop = whole[-1]
    base = ("generate", "--model_name_or_path", model, *SHORT, "--json", prompt)
    assert texts(run(*base, "--stop", "--none", "--stop", stop)) == [whole[: whole.index(stop)]]
    assert sampling.unescaped(r"\n\tx") == "\n\tx"
    assert texts(run(*base, "--stop", "\n\n")) == [whole]


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        (["infill", "--template", "a", "--prefix", "b"], "exclude each other"),
        (["infill", "--prefix", "b", "c[MASK]"], "exclude each other"),
        (["infill", "a[MASK]", "--tokens", "4"], "--tokens is for --prefix and --suffix"),
        (["infill", "--prefix", "a", "--tokens", "x"], "it must be a number such as 8, or two such as 1-16"),
        (["infill", "--template", "typo.txt"], "--template typo.txt: there is no such file."),
        (["infill", "--template", "no/typo"], "--template no/typo: there is no such file."),
        (["infill", "--prefix", "@none.py"], "none.py cannot be read"),
        (["generate", "--max_length", "8", "--max_new_tokens", "4", "hi"], "Give one of them"),
        (["generate", "--stop", "", "hi"], "stop has ''; it is a text"),
        (["generate", "--model", "", "hi"], "no model is named. Give --model_name_or_path"),
        (["infill", "--model", "."], "no text is given"),
        (["generate", "--model", ".", "--trace", "a.txt", "hi"], "must end in .html, .json, .gif"),
        (["generate", "--model", ".", "--trace", "no/a.json", "hi"], "there is no folder no"),
        (["generate", "--model", ".", "--messages", "[1]"], "--messages must be a list such as"),
        (["generate", "--model", ".", "--messages", "[{"], "--messages is no JSON"),
        (["generate", "--model", ".", "--messages", "[]", "hi"], "Give one of them"),
        (["generate", "--model", ".", "--prompt_file", "none.txt"], "none.txt cannot be read: No such file"),
        (["generate", "--model", ".", "--temprature", "1", "hi"], 'Did you mean "--temperature"?'),
        (["generate", "--model", ".", "--strategy", "confidnce", "hi"], 'Did you mean "confidence"?'),
        (["generate", "--model", ".", "--steps", "0", "hi"], "steps is 0; it must be a whole number"),
        (["generate", "--model", "nowhere/at/all", "hi"], 'no folder "nowhere/at/all"'),
        (["chat", "a", "b"], "one model too many"),
    ],
)
def test_mistakes_are_told_in_a_paragraph(run, argv, phrase) -> None:
    result = run(*argv)
    assert result.code == 2
    assert phrase in result.err
    assert "Traceback" not in result.err and result.out == ""


def test_a_text_without_blanks_is_told(model, run) -> None:
    result = run("infill", "--model_name_or_path", model, "no blank")
    assert result.code == 2 and "has no blank to fill in" in result.err


def test_chat_answers_piped_lines_and_remembers(model, lm, run) -> None:
    result = run("chat", model, *SHORT, stdin="hello\n\nand now?\n/bye\nnot read\n")
    talk = [{"role": "user", "content": "hello"}]
    answers = wanted(lm, [talk])
    talk += [{"role": "assistant", "content": answers[0].strip()}, {"role": "user", "content": "and now?"}]
    answers += wanted(lm, [talk])
    assert result.code == 0
    assert result.out == "".join(f"{answer.strip()}\n" for answer in answers)


def test_an_answer_is_remembered_without_the_space_around_it(lm, monkeypatch) -> None:
    monkeypatch.setattr(sampling, "drain", lambda *args, **kwargs: ([SimpleNamespace(text=" yes\n")], 0.0))
    chat = Chat(lm, GenerationOptions(max_new_tokens=4, steps=2), chat_verb.table())
    chat.answer("is it?")
    assert chat.messages[-1] == {"role": "assistant", "content": "yes"}


def test_chat_as_the_parents_call_it(model, lm, run) -> None:
    flags = ("--steps", "3", "--max_length", "11", "--block_length", "6", "--chat_template", "False")
    result = run("chat", "--model_name_or_path", model, *flags, stdin="hello")
    assert result.out == f"{wanted(lm, ['hello'])[0]}\n"


def test_chat_survives_every_mistake(model, run) -> None:
    lines = ["/set temperature hot", "/set temperature", "/set temprature 1", "/set steps 0", "/clera", "x" * 400]
    result = run("chat", model, *SHORT, stdin="\n".join([*lines, "/clear", "/help"]))
    assert result.code == 2 and result.out == ""
    for phrase in (
        '"hot" is not a number',
        "Use: /set NAME VALUE",
        'Did you mean "temperature"?',
        "steps is 0; it must be",
        'Did you mean "/clear"?',
        "the model was made for 256",
        "The conversation is forgotten",
        "ctrl-D",
    ):
        assert phrase in result.err
    assert "Traceback" not in result.err


def test_a_turn_of_several_lines_stands_in_quotes(model, lm, run) -> None:
    table = "/a | b\n  1 | 2\n\nWhat?"
    expected = wanted(lm, [[{"role": "user", "content": table}]])[0].strip()
    for typed in (f'"""\n{table}\n"""\n', f'"""{table}"""', f' """\n\n{table}""" \n/clear\n'):
        result = run("chat", model, *SHORT, stdin=typed)
        assert (result.code, result.out) == (0, f"{expected}\n"), typed
    assert run("chat", model, *SHORT, stdin='""""""\n"""\n\n"""\n').out == ""


def test_quotes_that_do_not_end_are_told(model, lm, run) -> None:
    result = run("chat", model, *SHORT, stdin='hello\n"""\nand')
    assert result.code == 2 and 'the input ends within """' in result.err
    assert result.out == f"{wanted(lm, [[{'role': 'user', 'content': 'hello'}]])[0].strip()}\n"


@pytest.fixture
def terminal(monkeypatch, capsys, tmp_path):
    """Runs the chat on a terminal where somebody types given lines, or ctrl-C where the line is an exception."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str, typed):
        lines, prompts = iter(typed), []

        def type_line(prompt: str) -> str:
            prompts.append(prompt)
            line = next(lines, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", type_line)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, closed=False))
        code = main(["chat", *argv])
        told = capsys.readouterr()
        return SimpleNamespace(code=code, out=told.out, err=told.err, prompts=prompts)

    return call


def test_a_terminal_shows_that_a_turn_goes_on(model, lm, terminal) -> None:
    stop = KeyboardInterrupt()
    result = terminal(model, *SHORT, typed=['"""', "dropped", stop, '"""a', 'b"""', stop, "/bye", "unread"])
    assert result.prompts == ["> ", ". ", ". ", "> ", ". ", "> ", "> "]
    asked = [{"role": "user", "content": "a\nb"}]
    assert result.out == f"{wanted(lm, [asked])[0].strip()}\n"
    assert result.code == 0 and result.err.count("ctrl-D or /bye leaves") == 2
    assert result.err.count("tokens/s") == 1


def test_ctrl_c_stops_an_answer_and_not_the_chat(model, lm, terminal, monkeypatch) -> None:
    real, calls = sampling.drain, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            next(iter(args[0]))
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(sampling, "drain", interrupted)
    result = terminal(model, *SHORT, typed=["hello", "and now?", "/save talk.jsonl"])
    assert "(stopped)" in result.err and result.code == 0
    # the turn that was stopped is not part of the conversation
    assert result.out == f"{wanted(lm, [[{'role': 'user', 'content': 'and now?'}]])[0].strip()}\n"
    assert "Added to talk.jsonl: 2 messages" in result.err


def test_what_is_saved_can_be_trained_on(lm, tmp_path) -> None:
    chat = Chat(lm, GenerationOptions(max_new_tokens=4, steps=2), chat_verb.table(), system="Be brief.")
    assert "nothing to save" in chat.command("/save no.jsonl")
    answers = [chat.answer(text)[0].text.strip() for text in ("hello", "and now?")]
    assert "cannot be written: No such file" in chat.command(f"/save {tmp_path}/no/talk.jsonl")
    assert "Use: /save FILE" in chat.command("/save")
    file = tmp_path / "my talk.jsonl"
    for _ in range(2):
        chat.command(f"/save {file}")
    rows = [json.loads(line)["messages"] for line in file.read_text("utf-8").splitlines()]
    assert rows == [chat.messages, chat.messages]
    assert [message["content"] for message in rows[0]] == ["Be brief.", "hello", answers[0], "and now?", answers[1]]
    assert chat.command("/show talk").startswith("system: Be brief.\nuser: hello\nassistant: ")


def test_a_grammar_is_checked_when_it_is_set(lm, model, run) -> None:
    pytest.importorskip("outlines_core", reason="the extra `grammar` is not installed")
    chat = Chat(lm, GenerationOptions(max_new_tokens=4, steps=2), chat_verb.table())
    assert "a bracket is not closed" in chat.command("/set regex [0-9")
    assert "Give max_new_tokens 9 or more" in chat.command("/set regex [0-9]{9}")
    assert "nowhere.json cannot be read" in chat.command("/set json_schema nowhere.json")
    assert chat.options == GenerationOptions(max_new_tokens=4, steps=2)
    assert chat.command("/set regex [0-9]{3}") == "regex is [0-9]{3}"
    assert "the shortest text of the grammar has 3 tokens" in chat.command("/set max_new_tokens 2")
    assert chat.answer("hello")[0].text.isdigit()
    refused = run("chat", model, *SHORT, "--regex", "[0-9", stdin="hello")
    assert refused.code == 2 and refused.out == "" and "a bracket is not closed" in refused.err


def test_chat_reads_what_is_not_utf8(model, run) -> None:
    result = run("chat", model, *SHORT, stdin=b"caf\xe9\n")
    assert result.code == 0 and result.out.endswith("\n")


def test_a_closed_stdin_is_told(model, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat", model]) == 2
    assert "Use: unmask generate" in capsys.readouterr().err


def test_commands_of_the_chat(lm) -> None:
    chat = Chat(lm, GenerationOptions(max_new_tokens=4, steps=2), chat_verb.table(), system="Be brief.")
    assert chat.command("/set temperature 0.5") == "temperature is 0.5"
    assert chat.command("/set remasking low_confidence") == "strategy is confidence"
    assert chat.command("/set gen_length 5") == "max_new_tokens is 5"
    assert (chat.options.temperature, chat.options.max_new_tokens) == (0.5, 5)
    assert 'Did you mean "max_new_tokens"?' in chat.command("/set gen_lenght 6")
    assert "temperature             0.5" in chat.command("/show")
    assert chat.command("/show canvas") == "The canvas is shown." and chat.show
    chat.answer("hello")
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    chat.command("/clear")
    assert chat.messages == [{"role": "system", "content": "Be brief."}]


def test_help_names_every_option(run) -> None:
    for verb in ("generate", "infill", "chat"):
        result = run(verb, "--help")
        assert result.code == 0
        assert all(f"--{name}" in result.out for name in ("model_name_or_path", "temperature", "steps", "show", "seed"))
        assert "hotter is more varied" in result.out
