"""The options of a verb: their names, types, defaults and help, taken from dataclasses and from transformers' fields.

jsonargparse converts text to values of these types and prints the help.
This file knows neither files nor other spellings.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from types import NoneType
from typing import Any

from unmask.cli.yaml_file import Given
from unmask.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Option:
    """One option; `is_json`: a text of JSON, for which a file may hold the mapping itself."""

    name: str
    type: Any
    default: Any = None
    help: str = ""
    is_json: bool = False


@dataclass(frozen=True)
class OptionTable:
    """Everything that a verb accepts.

    Attributes:
        verb: `sft`, `generate`, ...
        does: the sentence on top of its help.
        dataclasses: settings of our own; a dataclass's docstring is the title of its group in the help.
        extra: title -> options that no dataclass declares.
        defaults: defaults of this verb that differ from the declared ones.
        words: what may follow the options, for the usage line (`PROMPT ...`), empty where nothing may.
    """

    verb: str
    does: str
    dataclasses: tuple[type, ...]
    extra: tuple[tuple[str, tuple[Option, ...]], ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()
    words: str = ""

    @cached_property
    def groups(self) -> tuple[tuple[str, tuple[Option, ...]], ...]:
        """title -> options, in the order of the help."""
        return (*((_title(cls), declared(cls)) for cls in self.dataclasses), *self.extra)

    @cached_property
    def types(self) -> dict[str, Any]:
        """name -> Python type, of every option."""
        return {option.name: option.type for _, options in self.groups for option in options}

    @cached_property
    def default_values(self) -> dict[str, Any]:
        """name -> value where the user says nothing."""
        declared_values = {option.name: option.default for _, options in self.groups for option in options}
        return declared_values | dict(self.defaults)

    @cached_property
    def dict_options(self) -> frozenset[str]:
        """Options whose value is a mapping, which a YAML file must not flatten."""
        return self._json_options | {name for name, kind in self.types.items() if dict in _leaves(kind)}

    @cached_property
    def _json_options(self) -> frozenset[str]:
        return frozenset(option.name for _, options in self.groups for option in options if option.is_json)

    @cached_property
    def parser(self) -> Any:
        """The jsonargparse parser: types and help."""
        # Dataclasses are not handed to it whole: to resolve a dataclass's types it runs the imports that its file
        # keeps for type checkers, torch's among them.
        from jsonargparse import ArgumentParser

        words = f" {self.words}" if self.words else ""
        usage = f"unmask {self.verb}{words} [--config FILE.yaml] [--option value ...]"
        parser = ArgumentParser(prog=f"unmask {self.verb}", usage=usage, description=self.does, exit_on_error=False)
        for title, options in self.groups:
            group = parser.add_argument_group(title)
            for option in options:
                # argparse expands % in a help text.
                text = option.help.replace("%%", "%").replace("%", "%%")
                group.add_argument(f"--{option.name}", type=option.type, default=option.default, help=text)
        parser.set_defaults(dict(self.defaults))
        return parser

    def help(self) -> str:
        """The text of `--help`: every option with its default, in groups."""
        common = (
            "--config FILE.yaml, or recipe:NAME, may be given more than once; later files, then options, win. "
            "A bare --option means true. Other spellings are listed by: unmask show aliases"
        )
        # jsonargparse's `--name+` for appending to a list is not ours.
        text = re.sub(r", --\w+\+ \w+", "", self.parser.format_help())
        return f"{text}\n{common}\n"

    def is_bool(self, name: str) -> bool:
        """Whether a bare `--name` means true."""
        return bool in _leaves(self.types[name]) and str not in _leaves(self.types[name])

    def is_list(self, name: str) -> bool:
        """Whether several values may follow `--name`."""
        return bool(_items(self.types[name]))

    def is_texts(self, name: str) -> bool:
        """Whether the option holds texts, commas and all, and adds up where it is given again."""
        return any(
            typing.get_origin(leaf) is tuple and str in typing.get_args(leaf) for leaf in _leaves(self.types[name])
        )

    def takes_null(self, name: str) -> bool:
        """Whether nothing is one of the option's values."""
        return not {NoneType, Any}.isdisjoint(_leaves(self.types[name]))

    def convert(self, name: str, given: Given) -> Any:
        """The value that `given` means for the option `name`.

        Raises:
            ConfigError: the value has another type, or is not one of the option's values.
        """
        kind, value = self.types[name], given.value
        if value is None or value in ("null", "None") and NoneType in _leaves(kind):
            return self._nothing(name, given)
        if _leaves(kind) <= {str, NoneType} and isinstance(value, str):
            return value
        if name in self._json_options and isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False)
        if self.is_texts(name):
            return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
        if self.is_list(name) and str in _items(kind):
            found = _names(value)
            # one name stays a text only where a text may stand for the list, as `all-linear` may
            return found if isinstance(found, list) or str in _leaves(kind) else [found]
        if self.is_list(name) and isinstance(value, str) and not value.startswith("["):
            return self._typed(name, kind, replace(given, value=f"[{value}]"))
        return self._typed(name, kind, given)

    def _nothing(self, name: str, given: Given) -> None:
        if not self.takes_null(name):
            raise ConfigError(f"{given.label} has no value. {_wanted(self.types[name])}")
        return

    def _typed(self, name: str, kind: Any, given: Given) -> Any:
        import argparse

        try:
            if isinstance(given.value, str):
                found = self.parser.parse_args([f"--{name}={given.value}"], defaults=False)
            else:
                found = self.parser.parse_object({name: given.value}, defaults=False)
        except (argparse.ArgumentError, TypeError, ValueError) as error:
            raise ConfigError(_wrong_type(kind, given)) from error
        value = found[name]
        if isinstance(value, float) and value.is_integer() and name.endswith("_steps"):
            return int(value)
        return value


def declared(cls: type) -> tuple[Option, ...]:
    """The fields of a dataclass as options; the text below a field is its help."""
    from docstring_parser import parse_from_object

    texts = {entry.arg_name: entry.description or "" for entry in parse_from_object(cls).params}
    types = typing.get_type_hints(cls)
    return tuple(
        Option(entry.name, types[entry.name], _default(entry), " ".join(texts.get(entry.name, "").split()))
        for entry in fields(cls)
    )


def _title(cls: type) -> str:
    return (cls.__doc__ or cls.__name__).strip().split("\n")[0].removesuffix(".")


def _default(entry: Any) -> Any:
    if entry.default is not MISSING:
        return entry.default
    return entry.default_factory() if entry.default_factory is not MISSING else None


def _leaves(kind: Any) -> set[Any]:
    """The plain types in a union; a Literal and a list stand for themselves."""
    origin = typing.get_origin(kind)
    if origin is dict:
        return {dict}
    if origin is typing.Union or type(kind).__name__ == "UnionType":
        return set().union(*(_leaves(part) for part in typing.get_args(kind)))
    return {kind}


def _items(kind: Any) -> set[Any]:
    """The types of the members of a list or tuple; empty where the option is none."""
    lists = [leaf for leaf in _leaves(kind) if typing.get_origin(leaf) in (list, tuple, Sequence)]
    return {item for leaf in lists for item in typing.get_args(leaf)}


def _names(value: Any) -> Any:
    """One name, or a list of names; text may separate them by commas or stand in brackets."""
    if isinstance(value, list):
        return [str(item) for item in value]
    text = str(value).strip()
    if text.startswith("[") and text.endswith("]"):
        return [item.strip().strip("'\"") for item in text[1:-1].split(",") if item.strip()]
    return [item.strip() for item in text.split(",") if item.strip()] if "," in text else text


def _wrong_type(kind: Any, given: Given) -> str:
    choices = _choices(kind)
    shown = f'"{given.value}"' if isinstance(given.value, str) else repr(given.value)
    if choices and isinstance(given.value, str):
        names = ", ".join(str(choice) for choice in choices)
        return f"{given.label}: {shown} is not one of {names}.{did_you_mean(given.value, map(str, choices))}"
    return f"{given.label}: {shown} is not {_called(kind)}. {_wanted(kind)}"


def _choices(kind: Any) -> tuple[Any, ...]:
    return tuple(
        value for leaf in _leaves(kind) if typing.get_origin(leaf) is typing.Literal for value in typing.get_args(leaf)
    )


_CALLED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}
_EXAMPLES = {int: "8", float: "1e-4", bool: "true", str: "a name", dict: '{"key": 1}'}


def _called(kind: Any) -> str:
    return " or ".join(_CALLED[leaf] for leaf in _CALLED if leaf in _leaves(kind)) or "such a list"


def _wanted(kind: Any) -> str:
    choices = _choices(kind)
    if choices:
        return f"Allowed: {', '.join(str(choice) for choice in choices)}."
    example = next(
        (_EXAMPLES[leaf] for leaf in _EXAMPLES if leaf in _leaves(kind)), "a,b,c" if str in _items(kind) else "1,2,3"
    )
    return f"Example: {example}"
