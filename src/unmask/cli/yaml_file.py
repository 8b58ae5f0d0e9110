"""Reads a YAML 1.2 configuration file into named settings that remember their line and column.

Knows YAML, nothing of which names exist or what type they have: scalars stay text, as they do on a command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.cli.recipes import recipe_or_file
from unmask.errors import ConfigError, did_you_mean

MOST_ALIASES = 100
_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_CORE + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


@dataclass(frozen=True)
class Given:
    """One setting as the user gave it.

    Attributes:
        typed: its name as typed.
        value: text of a scalar, None for an empty one, a list or a dict of plain values.
        where: `FILE:LINE:COLUMN` in a file, empty on the command line.
        section: the mapping that it stood in, empty at the top.
    """

    typed: str
    value: Any
    where: str = ""
    section: str = ""

    @property
    def label(self) -> str:
        """How messages call it: `sft.yaml:9:5 lr`, or `--lr`."""
        return f"{self.where} {self.typed}" if self.where else f"--{self.typed}"


def read_yaml(path: str, dict_options: frozenset[str]) -> list[Given]:
    """The settings of a file, or of `recipe:NAME`, in order.

    A mapping under a name outside `dict_options` is flattened, its name dropped.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, a name given twice, tags, too many aliases, too deep.
    """
    path = recipe_or_file(path)
    root = _compose(path)
    return list(_Reader(Path(path).name, dict_options).settings(root))


def _compose(path: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    name, text = Path(path).name, _text(path)
    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        if "\\t" in str(error.problem) or "\t" in str(error.problem):
            raise ConfigError(f"{place} tabs are not allowed for indentation in YAML. Use spaces.") from error
        raise ConfigError(f"{place} is not valid YAML: {error.problem}.") from error
    except YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {error}.") from error
    except RecursionError as error:
        raise ConfigError(f"{name} is nested too deeply for a configuration file.") from error


def _text(path: str) -> str:
    file = Path(path).expanduser()
    if file.is_dir():
        raise ConfigError(f"--config {path} is a folder; give a YAML file.")
    if not file.is_file():
        siblings = [other.name for other in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        raise ConfigError(f"no configuration file {path}.{did_you_mean(file.name, siblings)}")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}). Give a YAML file.") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error


class _Reader:
    def __init__(self, name: str, dict_options: frozenset[str]) -> None:
        self.name = name
        self.dict_options = dict_options
        self.seen: set[int] = set()
        self.aliases = 0

    def settings(self, root: Any) -> Iterator[Given]:
        if root is None:
            raise ConfigError(f"{self.name} is empty. Write one setting per line, for example: max_length: 1024")
        if root.id != "mapping":
            kind = "a list" if root.id == "sequence" else "a single value"
            raise ConfigError(f"{self.name}: expected a mapping of names to values at the top, got {kind}.")
        places: dict[str, int] = {}
        for key, where, node in self._pairs(root, places):
            if node.id == "mapping" and key not in self.dict_options:
                yield from self._section(key, node, places)
            else:
                yield Given(key, self._value(node, top=True), where)

    def _section(self, section: str, mapping: Any, places: dict[str, int]) -> Iterator[Given]:
        for key, where, node in self._pairs(mapping, places):
            if node.id == "mapping" and key not in self.dict_options:
                raise ConfigError(
                    f"{where} {section}.{key} is nested twice; one level of nesting is flattened, "
                    "no more. Move its settings up."
                )
            yield Given(key, self._value(node, top=True), where, section)

    def _pairs(self, mapping: Any, places: dict[str, int]) -> Iterator[tuple[str, str, Any]]:
        self._visit(mapping)
        for key_node, node in mapping.value:
            if key_node.id != "scalar":
                raise ConfigError(f"{self._place(key_node)} a name must be a word, got a list or a mapping.")
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in places:
                raise ConfigError(f'{self.name}: key "{key}" given twice (lines {places[key]} and {line}).')
            places[key] = line
            yield key, self._place(key_node), node

    def _value(self, node: Any, *, top: bool = False) -> Any:
        if node.id == "mapping":
            return {key: self._value(item) for key, _, item in self._pairs(node, {})}
        self._visit(node)
        if node.id == "sequence":
            return [self._value(item) for item in node.value]
        if node.tag == _CORE + "null":
            return None
        return str(node.value) if top else _plain(node)

    def _visit(self, node: Any) -> None:
        """Refuse what a configuration file has no use for; every use of an alias brings an old node here again."""
        self.aliases += id(node) in self.seen
        self.seen.add(id(node))
        if self.aliases > MOST_ALIASES:
            raise ConfigError(f"{self._place(node)} YAML aliases beyond {MOST_ALIASES} are not allowed.")
        if node.tag not in _PLAIN_TAGS:
            tag = node.tag.removeprefix(_CORE) if node.tag.startswith(_CORE) else node.tag.lstrip("!")
            raise ConfigError(f"{self._place(node)} YAML tags are not allowed, found !{tag}. Write plain values.")

    def _place(self, node: Any) -> str:
        return f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _plain(node: Any) -> Any:
    """A scalar inside a list or a mapping, as YAML 1.2 types it."""
    text, kind = str(node.value), node.tag.removeprefix(_CORE)
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        digits = text.replace("_", "").lower()
        return int(digits, 0) if digits.lstrip("+-").startswith(("0x", "0o")) else int(digits)
    if kind == "float":
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
