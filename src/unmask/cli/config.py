"""Configuration files and flags of a verb -> typed settings, each remembering where it was given.

Files come first in their order, then flags; the last one wins. This file knows the command line's rules, not what any
setting means.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from unmask.cli.aliases import CONFIG_NAMES, Alias, meaning, note, suggestion, value_meaning
from unmask.cli.options import OptionTable
from unmask.cli.yaml_file import Given, read_yaml
from unmask.errors import ConfigError

T = TypeVar("T")
Layer = dict[str, tuple[Any, Given]]


@dataclass(frozen=True)
class Parsed:
    """What the user asked for.

    Attributes:
        table: the verb's options.
        given: name -> (typed value, where it was given), of options that the user set.
        words: what stood beside the options.
        notes: lines for stderr: other spellings, settings without effect.
    """

    table: OptionTable
    given: Layer = field(default_factory=dict)
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.given[name][0] if name in self.given else self.table.default_values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.given

    def label(self, name: str) -> str:
        """How a message calls the option: where it was given and as what, or its own name."""
        return self.given[name][1].label if name in self.given else name

    def build(self, cls: type[T]) -> T:
        """A settings dataclass filled from what was given and from the verb's defaults."""
        return cls(**{entry.name: self[entry.name] for entry in fields(cls)})  # type: ignore[arg-type]

    def put(self, name: str, value: Any, typed: Given) -> Parsed:
        """The same with another value for `name`."""
        return replace(self, given=self.given | {name: (value, typed)})

    def noted(self, *lines: str) -> Parsed:
        """The same with more notes."""
        return replace(self, notes=self.notes + lines)


def parse(argv: list[str], table: OptionTable) -> Parsed | None:
    """Read the arguments of a verb; None when help was asked for, which is then printed.

    Raises:
        ConfigError: an unknown name, a value of another type, a contradiction, an unreadable file.
    """
    # A backslash followed by a space ends some published commands; a shell makes it an argument " ", others keep it.
    argv = [word for word in argv if not word or word.strip(" \t\r\n\\")]
    if "-h" in argv or "--help" in argv:
        print(table.help())
        return None
    flags, files, words = _split(argv, table)
    parsed = Parsed(table, words=tuple(words))
    for file in files:
        parsed = _merge(parsed, _adapter_file(read_yaml(file, table.dict_options), table))
    return _merge(parsed, flags)


def say(notes: tuple[str, ...]) -> None:
    """Print notes to stderr, each once, from the first process of a run only."""
    if os.environ.get("RANK", "0") == "0":
        for line in dict.fromkeys(notes):
            print(line, file=sys.stderr)


def _split(argv: list[str], table: OptionTable) -> tuple[list[Given], list[str], list[str]]:
    """Flags, configuration files, and words that belong to no flag."""
    flags: list[Given] = []
    files: list[str] = []
    words: list[str] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if token == "--":
            words += rest
            break
        if not token.startswith("--"):
            words += [token] if token else []
            continue
        name, equals, text = token[2:].partition("=")
        if name in CONFIG_NAMES:
            files += [text] if equals else _values(rest, several=False, flag=name)
        else:
            flags.append(Given(name, text if equals else _flag_value(name, rest, table)))
    if words and not table.words:
        raise ConfigError(_stray(words[0], table))
    return flags, files, words


def _flag_value(name: str, rest: list[str], table: OptionTable) -> Any:
    told = _unknown(Given(name, None), table)
    if told:
        raise ConfigError(told)
    alias = _known(Given(name, None), table)
    option = alias.target if alias else name
    if not option:
        return rest.pop(0) if rest and not rest[0].startswith("--") else None
    if table.is_bool(option) or (alias and alias.value):
        return _truth(rest, table)
    found = _values(rest, several=table.is_list(option) or option == "dataset_args", flag=name)
    return found[0] if len(found) == 1 else _joined(option, found)


def _truth(rest: list[str], table: OptionTable) -> str:
    """The value of a flag that may stand alone; where words may follow, only one that reads as a truth is its value."""
    if not rest or not rest[0] or rest[0].startswith("--"):
        return "true"
    is_value = rest[0].lower() in ("true", "false", "yes", "no", "on", "off", "0", "1", "null")
    return rest.pop(0) if is_value or not table.words else "true"


def _values(rest: list[str], *, several: bool, flag: str) -> list[str]:
    found: list[str] = []
    while rest and not rest[0].startswith("--") and (several or not found):
        found.append(rest.pop(0))
    if not found:
        raise ConfigError(f"--{flag} needs a value.")
    return found


def _joined(option: str, found: list[str]) -> Any:
    """Several words after one flag: a list, or datasets to be joined (`--txt_files a.txt b.txt`)."""
    return "+".join(found) if option == "dataset_args" else found


def _stray(word: str, table: OptionTable) -> str:
    if word.startswith("-"):
        return f'unknown option "{word}". Options begin with two dashes; see unmask {table.verb} --help.'
    return f'"{word}" belongs to no option. Every value follows its option: --option value.'


def _merge(parsed: Parsed, layer: list[Given]) -> Parsed:
    """Add the settings of one file, or of all flags, which win over what came before."""
    added: Layer = {}
    notes = []
    unknown = [told for given in layer if (told := _unknown(given, parsed.table))]
    if unknown:
        raise ConfigError(" ".join(unknown))
    for given in layer:
        alias = _known(given, parsed.table)
        if alias:
            notes.append(note(given.typed, alias))
        option = alias.target if alias else given.typed
        text = alias.value(given.value) if alias and alias.value else given.value
        if not option:
            continue
        value = parsed.table.convert(option, replace(given, value=value_meaning(option, text)))
        _agree(option, value, given, added)
        if parsed.table.is_texts(option) and option in added:
            value = (*added[option][0], *value)
        added[option] = (value, given)
    return replace(parsed, given=parsed.given | added, notes=parsed.notes + tuple(notes))


def _agree(option: str, value: Any, given: Given, added: Layer) -> None:
    if option not in added:
        return
    before, first = added[option]
    if first.typed != given.typed and before != value:
        raise ConfigError(
            f"{given.label} and {first.label} both mean {option}, with different values "
            f"({value!r} and {before!r}). Give one of them."
        )


def _known(given: Given, table: OptionTable) -> Alias | None:
    """The alias behind a name; None for an option's own name, and for an unknown one."""
    return meaning(given.typed, table.types)


def _unknown(given: Given, table: OptionTable) -> str:
    """What to say of a name that is neither an option nor another spelling; empty where it is one."""
    if given.typed in table.types or _known(given, table):
        return ""
    names = [*table.types, *([] if given.where else CONFIG_NAMES[:1])]
    guess, mark = suggestion(given.typed, names), "" if given.where else "--"
    hint = f'Did you mean "{mark}{guess}"?' if guess else f"See unmask {table.verb} --help."
    kind = f'{given.where} unknown key "{given.typed}".' if given.where else f'unknown option "--{given.typed}".'
    return f"{kind} {hint}"


# What a file may hold that describes an adapter and nothing else.
ADAPTER_OPTIONS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "bias",
    "modules_to_save",
    "use_dora",
    "use_rslora",
)


def _adapter_file(settings: list[Given], table: OptionTable) -> list[Given]:
    """A file, or a section of one, that describes an adapter and nothing else also asks for it."""
    if "lora" not in table.types:
        return settings
    for section in dict.fromkeys(given.section for given in settings):
        members = [given for given in settings if given.section == section]
        targets = [alias.target if (alias := _known(given, table)) else given.typed for given in members]
        switched = any(given.typed in ("lora", "enable_lora") for given in settings)
        if set(targets) <= {*ADAPTER_OPTIONS, ""} and "r" in targets and not switched:
            return [*settings, Given("lora", "true", members[0].where, section)]
    return settings
