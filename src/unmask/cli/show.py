"""`unmask show`: what may be typed as a family, strategy, cache, schedule or objective; other spellings; recipes;
and where the launch configurations lie.

Prints tables; knows nothing of what it lists. `show memory` and `show families` have files of their own.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from unmask.cli.aliases import ALIASES, CONFIG_NAMES
from unmask.cli.config import parse
from unmask.cli.options import OptionTable
from unmask.cli.recipes import headline, recipes
from unmask.cli.show_families import families_in_markdown, family_rows
from unmask.errors import ConfigError, did_you_mean
from unmask.registry import CACHES, FAMILIES, NOISE_SCHEDULES, OBJECTIVES, STRATEGIES, Registry
from unmask.training.launch import CONFIGS, SLURM, config_path

REGISTRIES: dict[str, Registry] = {
    "families": FAMILIES,
    "strategies": STRATEGIES,
    "caches": CACHES,
    "schedules": NOISE_SCHEDULES,
    "objectives": OBJECTIVES,
}
KINDS = (*REGISTRIES, "recipes", "aliases", "launch", "memory")


@dataclass(frozen=True)
class ShowArguments:
    """What is printed, and how"""

    json: bool = False
    """Print one JSON object instead of tables."""
    markdown: bool = False
    """Print the families as the table in Markdown that the README has."""


def run(argv: list[str]) -> int:
    """Run `unmask show [KIND ...]`; without a kind, all names that options take."""
    from unmask.cli.show_memory import MemoryArguments, memory, print_memory

    does = f"List what may be typed where a name is asked for. Kinds: {', '.join(KINDS)}."
    parsed = parse(argv, OptionTable("show", does, (ShowArguments, MemoryArguments), words="[KIND ...]"))
    if parsed is None:
        return 0
    for kind in parsed.words:
        if kind not in KINDS:
            raise ConfigError(f'nothing called "{kind}" to show.{did_you_mean(kind, KINDS)} Kinds: {", ".join(KINDS)}.')
    wanted = parsed.words or tuple(REGISTRIES)
    if idle := [name for name in parsed.given if name not in ("json", "markdown") and "memory" not in wanted]:
        raise ConfigError(f"{parsed.label(idle[0])} belongs to: unmask show memory")
    if parsed["markdown"]:
        if wanted != ("families",):
            raise ConfigError("--markdown belongs to: unmask show families")
        print(families_in_markdown(), end="")
        return 0
    tables: dict[str, list[dict[str, Any]]] = {
        kind: memory(parsed) if kind == "memory" else rows(kind) for kind in wanted
    }
    if parsed["json"]:
        print(json.dumps(tables, indent=2, ensure_ascii=False))
    else:
        if "memory" in tables:
            print_memory(parsed, tables.pop("memory"))
        _print(tables)
    return 0


def rows(kind: str) -> list[dict[str, str]]:
    """One record per name: `name`, `what`, and what else there is (`attention`, `knobs`, `paper`, `file`)."""
    if kind == "aliases":
        spellings = dict.fromkeys(CONFIG_NAMES[1:], "config") | {
            "job_name": "run_name, and OUTPUT_DIR/JOB_NAME",
            "create_example_data": "dataset_args example:tables (sft) or example:text (pretrain)",
            "mode": "no effect: the command says it",
        }
        spellings |= {name: alias.target or f"no effect: {alias.why}" for name, alias in ALIASES.items()}
        return [{"name": name, "what": what} for name, what in spellings.items()]
    if kind == "families":
        return family_rows()
    if kind == "recipes":
        return [{"name": name, "what": headline(file), "file": str(file)} for name, file in recipes().items()]
    if kind == "launch":
        return [{"name": name, "what": what, "file": str(config_path(name))} for name, what in CONFIGS.items()] + [
            {"name": "slurm", "what": "sbatch script for one or more nodes", "file": str(SLURM)}
        ]
    registry = REGISTRIES[kind]
    standing_in = [{"name": name, "what": f"stands for {what}"} for name, what in registry.standing_in.items()]
    return standing_in + [_row(registry, name) for name in registry.names()]


def _row(registry: Registry, name: str) -> dict[str, str]:
    thing = registry.get(name)
    documented = thing
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        # An instance says nothing about itself; the file that is all about it does.
        documented = import_module(registry.table[name].partition(":")[0]) if name in registry.table else type(thing)
    what = (inspect.getdoc(documented) or "").split("\n\n")[0].replace("\n", " ")
    facts = {key: getattr(thing, key, None) for key in ("attention", "knobs", "paper")}
    return {"name": name, "what": what} | {key: fact for key, fact in facts.items() if isinstance(fact, str) and fact}


def _print(tables: dict[str, list[dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for kind, records in tables.items():
        table = Table(title=kind, title_justify="left", box=None, pad_edge=False)
        columns = list(dict.fromkeys(key for record in records for key in record))
        for column in columns:
            table.add_column(column, no_wrap=column == "name", overflow="fold")
        for record in records:
            table.add_row(*(record.get(column, "") for column in columns))
        console.print(table)
        console.print()
