"""`unmask chat`: turns of a conversation, from a terminal or from piped lines. The answers come from `DiffusionLM`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NamedTuple

from unmask.cli import sampling, trace_files
from unmask.cli.aliases import meaning, suggestion, value_meaning
from unmask.cli.idle_options import idle, tell_idle
from unmask.cli.options import Option, OptionTable
from unmask.cli.yaml_file import Given
from unmask.errors import ConfigError, UnmaskError, did_you_mean

if TYPE_CHECKING:
    from unmask.generation.options import GenerationOptions
    from unmask.lm import DiffusionLM, Generation

DOES = (
    'Talk to a model; without one named, to the small base of this package. Type a turn and Enter; """ begins a turn '
    "of several lines, such as a table, and ends it; /help lists the commands, ctrl-D leaves. Where the input is no "
    "terminal, each line is a turn too, and only the answers are printed."
)
OWN = (
    Option("chat_template", bool, True, "Put the conversation through the chat template; false continues each text."),
    Option("system", str | None, None, "System message at the start of the conversation."),
    Option(
        "trace",
        str | None,
        None,
        "Write how the last answer was written, anew after each: FILE.html (a player), FILE.json, or FILE.gif (needs "
        "Pillow).",
    ),
)
QUOTES = '"""'
HELP = f"""\
{QUOTES}               begin a turn of several lines, and end it
/bye              leave (so does ctrl-D)
/clear            forget the conversation
/set NAME VALUE   change an option of generation, for example: /set temperature 0.7
                  several texts or ids stand in brackets: /set stop ["\\n", "User:"]; one text needs none: /set stop \\n
/set NAME default put an option back to its default; null does so, too, where it is no value of its own
/show             list the options that are not at their default, and the usual ones; /show all lists all of them
/show canvas      turn the canvas on or off
/show talk        print the conversation
/save FILE        add the conversation to FILE, a .jsonl that can be trained on
/help             this list
ctrl-C            stop an answer, or drop what is being typed"""
USUAL = ("max_new_tokens", "block_size", "steps", "strategy", "temperature", "guidance_scale", "cache", "seed")
LEAVE = ("/bye", "/exit", "/quit")


def table() -> OptionTable:
    """The options of the verb."""
    return sampling.sampling_table("chat", DOES, "[MODEL]", OWN)


def run(argv: list[str]) -> int:
    """Run `unmask chat`."""
    parsed = sampling.read_arguments(argv, table())
    if parsed is None:
        return 0
    if len(parsed.words) > 1 or (parsed.words and parsed["model_name_or_path"]):
        raise ConfigError(f'"{parsed.words[-1]}" is one model too many. Use: unmask chat MODEL --option value')
    if parsed.words:
        parsed = parsed.put("model_name_or_path", parsed.words[0], Given("model_name_or_path", parsed.words[0]))
    if sys.stdin is None or sys.stdin.closed:
        raise ConfigError("there is no terminal and no input to read turns from. Use: unmask generate --prompt TEXT")
    trace_files.check(parsed["trace"])
    options = sampling.options_from(parsed, trace=parsed["trace"] is not None)
    parsed = sampling.with_model(parsed)
    lm = sampling.load_model(parsed)
    options = sampling.own_blocks(options, parsed, lm)
    check(lm, options)
    tell_idle(parsed, options)
    chat = Chat(
        lm,
        options,
        parsed.table,
        parsed["chat_template"],
        parsed["show"],
        parsed["system"],
        parsed["colors"],
        parsed["trace"],
    )
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        print(f"{parsed['model_name_or_path']}: /help lists the commands, ctrl-D leaves", file=sys.stderr)
    return chat.loop(turns(typed_line if is_terminal else piped_lines()), talkative=is_terminal)


def check(lm: DiffusionLM, options: GenerationOptions) -> None:
    """Raises UnmaskError: the model cannot write with these options, whatever it is asked."""
    from unmask.generation.decoding import check_options

    lm.check_language(options)
    check_options(lm.model.facts.shape.vocab_size, options)
    # nothing runs before somebody asks for a commit
    lm.stream([[0]], options)


class Turn(NamedTuple):
    """What was typed at once; whether it stood in quotes, where a slash begins no command."""

    text: str
    is_quoted: bool = False


def turns(read: Callable[[str], str | None]) -> Iterator[Turn]:
    """Turns out of lines: a line each, or all that stands between two `\"\"\"`.

    Args:
        read: gives the next line without its end, after showing a prompt; None where the user gave up what is open.
            Raises EOFError after the last one.

    Raises:
        ConfigError: the input ends within quotes.
    """
    lines: list[str] | None = None
    while True:
        try:
            line = read("> " if lines is None else ". ")
        except EOFError:
            if lines is not None:
                raise ConfigError(f"the input ends within {QUOTES}. End the turn with a second {QUOTES}.") from None
            return
        if line is None:
            lines = None
            continue
        if lines is None and not line.lstrip().startswith(QUOTES):
            yield Turn(line.strip())
            continue
        opened = lines is None
        lines = [*(lines or []), line.lstrip().removeprefix(QUOTES) if opened else line]
        if lines[-1].rstrip().endswith(QUOTES):
            lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
            yield Turn("\n".join(lines).strip("\n"), is_quoted=True)
            lines = None


def typed_line(prompt: str) -> str | None:
    """A line from a terminal, edited with readline where there is one; None after ctrl-C."""
    with suppress(ImportError):
        import readline  # noqa: F401  (importing it is what makes `input` editable)
    try:
        return input(prompt)
    except KeyboardInterrupt:
        print("\n(ctrl-D or /bye leaves)", file=sys.stderr)
        return None
    except EOFError:
        print(file=sys.stderr)
        raise


def piped_lines() -> Callable[[str], str]:
    """Reads stdin line by line; what is not UTF-8 becomes replacement characters."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")

    def read(prompt: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    return read


@dataclass
class Chat:
    """A conversation and its settings.

    Attributes:
        table: knows the types of the options that `/set` changes.
        template: whether turns are messages; otherwise each is a text to be continued, on its own.
        show: whether the canvas is shown.
        system: first message, or None.
        colors: of the canvas.
        trace: file that shows how the last answer was written, or None.
    """

    lm: DiffusionLM
    options: GenerationOptions
    table: OptionTable
    template: bool = True
    show: bool = False
    system: str | None = None
    colors: str = "age"
    trace: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clear()

    def loop(self, turns: Iterator[Turn], *, talkative: bool) -> int:
        """Answer turn after turn; the exit code: 2 where nobody was there to see that a turn was not answered."""
        asked = failed = 0
        for text, is_quoted in turns:
            if text in LEAVE and not is_quoted:
                break
            asked += bool(text)
            if text.startswith("/") and not is_quoted:
                print(self.command(text), file=sys.stderr)
            elif text:
                failed += not self._answer_aloud(text, talkative)
        if not (asked or talkative):
            print("the input is empty: there was no turn to answer", file=sys.stderr)
        return 2 if failed and not talkative else 0

    def clear(self) -> None:
        """Forget the conversation, but not the system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def answer(self, text: str) -> tuple[Generation, float]:
        """The model's next turn, and seconds; a turn that fails leaves no trace in the conversation.

        Raises:
            UnmaskError: the conversation is too long for the model, or the model fails.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        prompt = asked if self.template else text
        stream = self.lm.stream([prompt], self.options)
        show = self.show and self.colors
        results, seconds = sampling.drain(stream, self.lm, 1, show, whole=not self.template)
        trace_files.write(self.trace, [prompt], results, trace_files.About(self.lm, self.options, seconds))
        if self.template:
            # a template that puts a space before an answer would write it twice
            self.messages = [*asked, {"role": "assistant", "content": results[0].text.strip()}]
        return results[0], seconds

    def command(self, text: str) -> str:
        """Obey a line that begins with a slash; what to say about it."""
        name, *rest = text.split(maxsplit=2)
        commands: dict[str, Callable[[list[str]], str]] = {
            "/clear": self._clear,
            "/set": self._set,
            "/show": self._show,
            "/save": self._save,
            "/help": lambda rest: HELP,
            "/?": lambda rest: HELP,
        }
        if name not in commands:
            return f"no command {name}.{did_you_mean(name, [*commands, *LEAVE])} /help lists them."
        return commands[name](rest)

    def _answer_aloud(self, text: str, talkative: bool) -> bool:
        """Print the answer, or why there is none; whether there was one."""
        try:
            result, seconds = self.answer(text)
        except UnmaskError as error:
            hint = " /clear forgets the conversation." if len(self.messages) > 1 else ""
            print(f"{error}{hint}", file=sys.stderr)
            return False
        except KeyboardInterrupt:
            if not talkative:
                raise
            print("\n(stopped)", file=sys.stderr)
            return False
        print(result.text.strip() if self.template else result.text, flush=True)
        if talkative:
            print(f"({sampling.summary([result], seconds)})", file=sys.stderr)
        return True

    def _clear(self, rest: list[str]) -> str:
        self.clear()
        return "The conversation is forgotten."

    def _set(self, rest: list[str]) -> str:
        names = [entry.name for entry in fields(self.options) if entry.name not in sampling.OWN_MEANING]
        if len(rest) != 2:
            return f"Use: /set NAME VALUE. Names: {', '.join(names)}."
        typed, text = rest
        alias = meaning(typed, names)
        name = alias.target if alias else typed
        if name not in names:
            guess = suggestion(typed, names)
            hint = f' Did you mean "{guess}"?' if guess else ""
            return f'no option "{typed}".{hint} Names: {", ".join(names)}.'
        try:
            value = self._value(name, Given(typed, value_meaning(name, text)))
            # the other way to say how long an answer may be
            without = {"max_length": None} if name == "max_new_tokens" else {}
            options = replace(self.options, **{name: value}, **without)
            check(self.lm, options)
        except UnmaskError as error:
            return str(error).removeprefix("--")
        self.options = options
        in_vain = idle([name], options).get(name)
        return f"{name} is {_told(getattr(options, name))}" + (f" ({in_vain} does not use it)" if in_vain else "")

    def _value(self, name: str, given: Given) -> Any:
        """What a text after `/set NAME` means; `default`, and `null` where it is no value, are the default."""
        from unmask.lm.attention import own_blocks

        if given.value == "default" or (given.value == "null" and not self.table.takes_null(name)):
            return getattr(own_blocks(type(self.options)(), self.lm.model.facts), name)
        if self.table.is_texts(name):
            given = replace(given, value=_texts(given.value))
        return self.table.convert(name, given)

    def _show(self, rest: list[str]) -> str:
        if rest == ["canvas"]:
            self.show = not self.show
            return f"The canvas is {'shown' if self.show else 'hidden'}."
        if rest == ["talk"]:
            return "\n".join(f"{message['role']}: {message['content']}" for message in self.messages) or "Nothing yet."
        if rest and rest != ["all"]:
            return "Use: /show, /show all, /show canvas or /show talk"
        plain = type(self.options)()
        return "\n".join(
            f"{entry.name:<24}{_told(value)}"
            for entry in fields(self.options)
            if entry.name not in sampling.OWN_MEANING
            for value in (getattr(self.options, entry.name),)
            if rest or entry.name in USUAL or value != getattr(plain, entry.name)
        )

    def _save(self, rest: list[str]) -> str:
        if not rest:
            return "Use: /save FILE, for example: /save talk.jsonl"
        if not any(message["role"] == "assistant" for message in self.messages):
            return "There is nothing to save: no turn of this conversation was answered."
        file = os.path.expanduser(" ".join(rest))
        row = json.dumps({"messages": self.messages}, ensure_ascii=False)
        try:
            with open(file, "a", encoding="utf-8") as handle:
                handle.write(f"{row}\n")
        except OSError as error:
            return f"{file} cannot be written: {error.strerror}."
        return f"Added to {file}: {len(self.messages)} messages."


def _texts(typed: str) -> list[str]:
    """Several texts as a JSON list of them, or one as it is typed on a command line."""
    try:
        found = json.loads(typed)
    except json.JSONDecodeError:
        found = None
    if isinstance(found, list) and all(isinstance(text, str) for text in found):
        return found
    return [sampling.unescaped(typed)]


def _told(value: Any) -> Any:
    """A value as it may be typed again."""
    if value is None:
        return "null"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple | list | bool) else value
