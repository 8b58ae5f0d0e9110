"""What `generate`, `infill` and `chat` share: options, the model, prompts, showing and writing results."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from unmask.cli.aliases import ALIASES, note
from unmask.cli.config import Parsed, parse, say
from unmask.cli.options import Option, OptionTable
from unmask.cli.yaml_file import Given
from unmask.errors import ConfigError
from unmask.generation.options import GenerationOptions

if TYPE_CHECKING:
    from rich.console import Console

    from unmask.lm import DiffusionLM, Generation, TextStream

# `--trace` names a file here; in Python it is a boolean.
OWN_MEANING = ("trace",)
# options whose text may begin with dashes
RAW = ("regex",)
# asked where no model is named
SMALL_BASE = "example:base"


@dataclass(frozen=True)
class SamplerArguments:
    """Which model, and how it is held."""

    model_name_or_path: str | None = None
    """Folder or Hub id of a checkpoint or an adapter; --model for short. Without it: example:base, the small base model
    of this package, which has read tables and never a question."""
    adapter: str | None = None
    """Folder of a LoRA adapter to put on top."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    dtype: str = "auto"
    """auto (as stored), float32, bfloat16 or float16."""
    load_in_4bit: bool = False
    """Hold the layers' matrices in 4 bits (NF4; needs the extra `quant`)."""
    load_in_8bit: bool = False
    """Hold the layers' matrices in 8 bits (needs the extra `quant`)."""
    compile: bool = False
    """Put the layers through torch.compile: the first tokens take up to a minute longer, later ones less time. On a CPU
    it needs a compiler of C++; a small network decodes in float32 by code of our own there, ready after two seconds."""
    show: bool = False
    """Show the canvas while it fills; on stderr, animated on a terminal."""
    colors: Literal["age", "confidence"] = "age"
    """With --show: age (what was written last is brightest) or confidence (how probable each token was)."""


def sampling_table(verb: str, does: str, words: str, own: Sequence[Option], **defaults: Any) -> OptionTable:
    """The options of a sampling verb: the model, its own ones, and all fields of `GenerationOptions`."""
    extra = (("The text", tuple(own)), ("How to generate", generation_options()))
    return OptionTable(verb, does, (SamplerArguments,), extra, tuple(defaults.items()), words)


def generation_options() -> tuple[Option, ...]:
    """One option per field of `GenerationOptions`, the docstring below the field being its help."""
    from docstring_parser import parse_from_object

    helps = {entry.arg_name: entry.description or "" for entry in parse_from_object(GenerationOptions).params}
    types = get_type_hints(GenerationOptions)
    return tuple(
        Option(entry.name, types[entry.name], entry.default, helps.get(entry.name, ""), entry.name == "json_schema")
        for entry in fields(GenerationOptions)
        if entry.name not in OWN_MEANING
    )


def read_arguments(
    argv: list[str], table: OptionTable, repeated: str | None = None, raw: Sequence[str] = ()
) -> Parsed | None:
    """Parse; every `--{repeated} TEXT` counts, and joins the words beside the options. Every `--stop TEXT` counts, too.

    These texts, and those of the options in `raw`, may begin with dashes, and may be empty or a line break, which no
    word may.
    """
    taken: dict[str, list[str]] = {name: [] for name in ("stop", *RAW, *raw, *([repeated] if repeated else []))}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            if repeated is None:
                rest += [word, *words]
            else:
                taken[repeated] += words
            break
        name, equals, text = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in taken and (equals or words):
            taken[name].append(text if equals else words.pop(0))
        else:
            rest.append(word)
    parsed = parse(rest, table)
    if parsed is None:
        return None
    say_notes(parsed)
    if taken["stop"]:
        parsed = parsed.put("stop", tuple(map(unescaped, taken["stop"])), Given("stop", taken["stop"]))
    for name in (*RAW, *raw):
        if taken[name]:
            parsed = parsed.put(name, taken[name][-1], Given(name, taken[name][-1]))
    return replace(parsed, words=(*parsed.words, *taken[repeated])) if repeated else parsed


def unescaped(text: str) -> str:
    r"""A text typed on a command line: `\n` and `\t` in it are a line break and a tab."""
    return text.replace(r"\n", "\n").replace(r"\t", "\t")


def say_notes(parsed: Parsed) -> None:
    """Print the notes, but not that --model was read as --model_name_or_path: it is our own short form."""
    usual = note("model", ALIASES["model"])
    say(tuple(line for line in parsed.notes if line != usual))


def options_from(parsed: Parsed, *, trace: bool = False) -> GenerationOptions:
    """The generation options that the user asked for.

    Raises:
        ConfigError: one is out of range.
    """
    if parsed["max_length"] is not None and "max_new_tokens" in parsed:
        raise ConfigError(
            "--max_length is prompt and answer together, --max_new_tokens the answer alone. Give one of them."
        )
    names = [entry.name for entry in fields(GenerationOptions) if entry.name not in OWN_MEANING]
    settings = {name: parsed[name] for name in names}
    for name in ("guidance_keep", "suppress_tokens", "begin_suppress_tokens"):
        settings[name] = tuple(settings[name] or ())
    if settings["json_schema"] is not None and not settings["json_schema"].lstrip().startswith("{"):
        # results depend on what the file says now, not on its name
        settings["json_schema"] = _schema_in(settings["json_schema"])
    return GenerationOptions(**settings, trace=trace)


def _schema_in(name: str) -> str:
    text = read_file(name)
    try:
        is_object = isinstance(json.loads(text), dict)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"--json_schema: {name} is no JSON ({error.msg} at line {error.lineno}, column {error.colno}). "
            'It must hold an object such as {"type": "string"}.'
        ) from None
    if not is_object:
        raise ConfigError(f'--json_schema: {name} holds no JSON object. A schema is one, such as {{"type": "string"}}.')
    return text


def own_blocks(options: GenerationOptions, parsed: Parsed, lm: DiffusionLM) -> GenerationOptions:
    """The options with blocks as long as the model was made for, unless the user gave a size."""
    from unmask.lm.attention import own_blocks

    return options if "block_size" in parsed else own_blocks(options, lm.model.facts)


def one_block(options: GenerationOptions, parsed: Parsed) -> GenerationOptions:
    """The options for filling blanks: the whole text is one block, unless the user gave a size."""
    return options if "block_size" in parsed else replace(options, block_size=None)


def with_model(parsed: Parsed) -> Parsed:
    """The arguments with a model where they name none: the adapter's own base, or else the small one of this package.

    The small one is announced on stderr.
    """
    if parsed["model_name_or_path"] is not None:
        return parsed
    if parsed["adapter"]:
        name = parsed["adapter"]
        return parsed.put("model_name_or_path", name, Given("adapter", name)).put(
            "adapter", None, Given("adapter", None)
        )
    print(
        f"{SMALL_BASE} writes: a small base model that has read tables and never a question. The tutorial and "
        "unmask demo teach it to answer; --model FOLDER_OR_HUB_ID names another.",
        file=sys.stderr,
    )
    return parsed.put("model_name_or_path", SMALL_BASE, Given("model_name_or_path", SMALL_BASE))


def load_model(parsed: Parsed) -> DiffusionLM:
    """Load the model that the options name.

    Raises:
        ConfigError: none is named, or how it is to be held is contradictory.
        ModelError: it cannot be loaded.
    """
    name = parsed["model_name_or_path"]
    if not name:
        raise ConfigError(f"no model is named. Give --model_name_or_path FOLDER_OR_HUB_ID, {SMALL_BASE} for example.")
    if parsed["load_in_4bit"] and parsed["load_in_8bit"]:
        raise ConfigError("load_in_4bit and load_in_8bit exclude each other. Give one of them.")
    quieten()
    from unmask.lm import load

    return load(
        os.path.expanduser(name),
        dtype=parsed["dtype"],
        device=parsed["device"],
        adapter=parsed["adapter"] and os.path.expanduser(parsed["adapter"]),
        quantization="4bit" if parsed["load_in_4bit"] else "8bit" if parsed["load_in_8bit"] else None,
        compile=parsed["compile"],
    )


def shown(parsed: Parsed) -> bool | str:
    """Whether the canvas is shown, and in which colours: "age" or "confidence"."""
    return parsed["show"] and parsed["colors"]


def quieten() -> None:
    """transformers' progress bars and advice are not for the readers of a completion."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def texts_from(parsed: Parsed, own: str) -> list[str]:
    """The texts typed, those of a file (one per line), or else all of a piped stdin; empty where there is none.

    Args:
        parsed: the verb's arguments.
        own: the option that holds a text; with `_file` behind it, the one that names a file.

    Raises:
        ConfigError: the file cannot be read, or holds nothing.
    """
    texts = [*parsed.words, *([parsed[own]] if parsed[own] is not None else [])]
    file = parsed[f"{own}_file"]
    if file is not None:
        lines = [line for line in read_file(file).splitlines() if line.strip()]
        if not lines:
            raise ConfigError(f"{file} holds no text. Write one text per line.")
        texts += lines
    if not texts and sys.stdin is not None and not sys.stdin.isatty():
        piped = sys.stdin.read().rstrip("\n")
        texts = [piped] if piped.strip() else []
    return texts


def read_file(file: str) -> str:
    """A file's text, or the reason why not as a `ConfigError`."""
    try:
        return Path(file).expanduser().read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: byte {error.start} is not UTF-8. Convert the file to UTF-8.") from None


def drain(
    stream: TextStream, lm: DiffusionLM, rows: int, show: bool | str, *, whole: bool = True
) -> tuple[list[Generation], float]:
    """Run a generation to its end; the results and the seconds it took.

    Args:
        stream: the generation.
        lm: whose it is.
        rows: how many.
        show: show the canvas on stderr; "confidence": in colours that tell how probable each token was.
        whole: show the given text too, not only what follows it.
    """
    began = time.perf_counter()
    if show:
        from unmask.cli.canvas_view import tokenizer_look, watch

        starts = [stream.canvas(row).index(None) for row in range(rows)]
        look = tokenizer_look(lm.tokenizer, "confidence" if show == "confidence" else "age")
        watch(stream, look, stderr(), firsts=[0] * rows if whole else starts)
    else:
        for _ in stream:
            pass
    return stream.generations(), time.perf_counter() - began


def stderr() -> Console:
    """A console for everything that is no result."""
    from rich.console import Console

    return Console(stderr=True)


def as_json(prompts: Sequence[Any], results: Sequence[Generation], seconds: float) -> str:
    """One JSON object with every result and its figures."""
    rows = [
        {
            "prompt": prompt,
            "text": result.text,
            "token_ids": result.token_ids,
            "finish_reason": result.finish_reason,
            **({"written": list(result.written)} if result.written else {}),
            **({"fields": result.fields} if result.fields else {}),
            "emitted": result.stats.emitted,
            "forwards": asdict(result.stats.forwards),
            "positions": result.stats.positions,
        }
        for prompt, result in zip(prompts, results, strict=True)
    ]
    return json.dumps({"results": rows, "seconds": seconds}, ensure_ascii=False)


def summary(results: Sequence[Generation], seconds: float) -> str:
    """One line of figures."""
    tokens = sum(result.stats.emitted for result in results)
    forwards = max((result.stats.forwards.total for result in results), default=0)
    return f"{tokens} tokens, {forwards} forwards, {seconds:.1f} s, {tokens / max(seconds, 1e-9):.0f} tokens/s"
