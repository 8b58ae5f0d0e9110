"""Names of tasks -> the harness' tasks, reading a user's own files where a folder of them is given.

Prompts, filters and metrics stay the harness'; only where rows come from changes. Knows no model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lm_eval.tasks  # pyright: ignore[reportMissingImports]
from datasets import Dataset, DatasetDict
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
from lm_eval.tasks._yaml_loader import load_yaml  # pyright: ignore[reportMissingImports]

from unmask.errors import ConfigError, DataError, ResourceError, did_you_mean
from unmask.evaluation.harness_code import check_tests, code_metric
from unmask.evaluation.harness_rows import BENCHMARKS, Splits, has_files, part_name, read_benchmark, where

# our short names beside the harness' own
SHORT = {
    "arc": ("arc_easy", "arc_challenge"),
    "ceval": ("ceval-valid",),
    "lambada": ("lambada_openai", "lambada_standard"),
    "math": ("hendrycks_math500",),
    "humaneval-infilling": ("humaneval_infilling",),
}
_HOME = Path(lm_eval.tasks.__file__).parent
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class ChosenTasks:
    """Tasks with their data.

    Attributes:
        objects: what the harness is to evaluate: its Task and Group objects.
        by_name: name -> Task, of every single one.
        greedy: names of tasks with a metric that asks whether a target is what greedy decoding writes.
        manager: the harness' index that they are from.
        notes: what a reader of the figures has to know.
    """

    objects: list[Any]
    by_name: dict[str, Any]
    greedy: frozenset[str]
    manager: Any
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FoundTasks:
    """Names of tasks that there are, and may be run.

    Attributes:
        given: names as they were given. names: those of the harness. leaves: the single tasks behind them.
        manager: the harness' index.
        runs_code: whether one of them runs what the model writes.
    """

    given: tuple[str, ...]
    names: tuple[str, ...]
    leaves: tuple[str, ...]
    manager: Any
    runs_code: bool


def find_tasks(
    names: Sequence[str], *, include_path: str | None = None, allow_code_execution: bool = False
) -> FoundTasks:
    """Look tasks up; nothing is loaded.

    Args:
        names: tasks, groups and tags of the harness, or short names of ours; files of the harness' kind.
        include_path: folder of tasks of one's own, in the harness' form.
        allow_code_execution: tasks that run what the model writes are wanted.

    Raises:
        ConfigError: an unknown name, or a task that runs code without consent.
    """
    asked = tuple(dict.fromkeys(name for given in names for name in SHORT.get(given, (given,))))
    manager = _manager(asked, include_path)
    leaves = _all_leaves(manager.task_index, asked)
    unsafe = [name for name in leaves if (manager.task_index[name].cfg or {}).get("unsafe_code")]
    if unsafe and not allow_code_execution:
        raise ConfigError(
            f"{unsafe[0]} runs programs that the model writes. They run in a sandbox, without network and with limits "
            "of time and memory; add --allow_code_execution if you want that."
        )
    return FoundTasks(tuple(dict.fromkeys(names)), asked, tuple(leaves), manager, bool(unsafe))


def load_tasks(found: FoundTasks, data_dir: Path | None = None) -> ChosenTasks:
    """Tasks with their data.

    Args:
        found: what to load.
        data_dir: folder of benchmarks; None: each task loads its dataset from the Hub.

    Raises:
        ConfigError: a task is asked for twice, or `data_dir` is no folder.
        DataError: its files are not there, or damaged.
        ResourceError: it needs a package, or a dataset, that is not there.
    """
    index, asked, notes = found.manager.task_index, list(found.names), list[str]()
    with code_metric() if found.runs_code else nullcontext():
        if data_dir is not None:
            _bring_home(index, found.leaves, data_dir)
            notes += [note for given in found.given for note in _leave_out(index, given, asked, data_dir)]
        loaded = _load(found.manager, asked)
    groups = [loaded["groups"][name] for name in asked if name in loaded["groups"]]
    grouped = {task.task_name for group in groups for task in group.get_all_tasks()}
    single = [task for name, task in loaded["tasks"].items() if name not in grouped]
    tasks = dict(loaded["tasks"])
    if found.runs_code:
        check_tests(tasks)
    greedy = frozenset(name for name, task in tasks.items() if _asks_greedy(task))
    return ChosenTasks([*single, *groups], tasks, greedy, found.manager, notes)


def all_names() -> list[str]:
    """Every task, group and tag of the harness, and our short names."""
    return sorted({*SHORT, *TaskManager().all_tasks})


def _manager(names: Sequence[str], include_path: str | None) -> Any:
    """The harness' index: of the folders that the names speak of, or of everything, which takes some seconds."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if include_path is not None and not Path(include_path).is_dir():
        raise ConfigError(f"include_path {include_path} is no folder. Name one that holds tasks as YAML files.")
    if include_path is None:
        folders = {name: _folder(name) for name in names}
        if all(folders.values()):
            manager = TaskManager(include_path=[str(path) for path in set(folders.values())], include_defaults=False)
            if all(_is_whole(manager.task_index, name) for name in names):
                return manager
    manager = TaskManager(include_path=include_path)
    for name in names:
        if name not in manager.task_index and not Path(name).is_file():
            raise ConfigError(
                f'the harness has no task "{name}".{did_you_mean(name, [*SHORT, *manager.all_tasks])} '
                "All names: unmask eval --tasks list"
            )
    return manager


def _folder(name: str) -> Path | None:
    """The harness' folder whose name the task's begins with; the longest."""
    found = [path for path in _HOME.iterdir() if path.is_dir() and name.replace("-", "_").startswith(path.name)]
    return max(found, key=lambda path: len(path.name), default=None)


def _is_whole(index: Mapping[str, Any], name: str) -> bool:
    """Whether a task or group is there with all its members; a tag's members may be in other folders."""
    entry = index.get(name)
    if entry is None or entry.kind.name == "TAG":
        return False
    return all(member in index for member in _members(entry))


def _members(entry: Any) -> list[str]:
    """What a group or a tag consists of."""
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    given = (entry.cfg or {}).get("task")
    if entry.kind.name != "GROUP" or not isinstance(given, list):
        return []
    return [item if isinstance(item, str) else str(item.get("task") or item.get("group")) for item in given]


def _all_leaves(index: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(leaf for name in names for leaf in _leaves(index, name)))


def _leaves(index: Mapping[str, Any], name: str) -> Iterator[str]:
    """The single tasks behind a name."""
    entry = index.get(name)
    if entry is None:
        return
    if entry.kind.name in ("GROUP", "TAG"):
        for member in _members(entry):
            yield from _leaves(index, member)
    else:
        yield name


def _bring_home(index: dict[str, Any], leaves: Sequence[str], data_dir: Path) -> None:
    """Let every task read its rows from the folder, if they are there."""
    if not data_dir.is_dir():
        raise ConfigError(f"data_dir {data_dir} is no folder.")
    for leaf in leaves:
        changes = _local(index[leaf].cfg or {}, data_dir)
        if changes is not None:
            index[leaf] = replace(index[leaf], yaml_path=None, cfg={**_resolved(index[leaf]), **changes})


def _leave_out(index: dict[str, Any], given: str, asked: list[str], data_dir: Path) -> list[str]:
    """Take parts of what was asked for that are not in the folder out of it, and say so."""
    names = [name for name in SHORT.get(given, (given,)) if name in index]
    parts = _all_leaves(index, names)
    lost = [part for part in parts if index[part].yaml_path is not None]
    if lost and lost == parts:
        raise DataError(_nothing_there(index[lost[0]].cfg or {}, given, data_dir))
    for name in names if lost else ():
        if set(_leaves(index, name)) <= set(lost):
            asked.remove(name)
        else:
            _drop(index, name, set(lost))
    note = f"{given}: {len(lost)} of {len(parts)} parts are not in {data_dir} and left out: {_few(lost)}."
    return [note] if lost else []


def _nothing_there(config: Mapping[str, Any], name: str, data_dir: Path) -> str:
    dataset = str(config.get("dataset_path"))
    at = f"{data_dir / dataset} (a copy of the dataset)"
    if dataset in BENCHMARKS:
        at = f"{where(data_dir, BENCHMARKS[dataset], part_name(dataset, config.get('dataset_name')))} or {at}"
    return f"task {name} has no data in data_dir: looked for {at}. docs/evaluation.md lists the files."


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")


def _drop(index: dict[str, Any], name: str, lost: set[str]) -> None:
    """Take the lost tasks out of a group or tag, and out of those inside it."""
    entry = index.get(name)
    if entry is None or entry.kind.name not in ("GROUP", "TAG"):
        return
    kept = [member for member in _members(entry) if set(_leaves(index, member)) - lost]
    for member in kept:
        _drop(index, member, lost)
    if entry.kind.name == "TAG":
        index[name] = replace(entry, tags=set(kept))
        return
    config = _resolved(entry)
    items = {item if isinstance(item, str) else item.get("task") or item.get("group"): item for item in config["task"]}
    index[name] = replace(entry, yaml_path=None, cfg=config | {"task": [items[member] for member in kept]})


def _resolved(entry: Any) -> dict[str, Any]:
    """The configuration with its functions."""
    if entry.yaml_path is None:
        return dict(entry.cfg)
    try:
        return load_yaml(entry.yaml_path, resolve_func=True)
    except (ImportError, AssertionError) as error:
        raise ResourceError(f"task {entry.name} needs a package that is not there: {error}") from None


def _local(config: Mapping[str, Any], data_dir: Path) -> dict[str, Any] | None:
    """What changes in a task's configuration so that it reads the user's files; None where there are none."""
    dataset, name = str(config.get("dataset_path")), config.get("dataset_name")
    if dataset in BENCHMARKS:
        part = part_name(dataset, name)
        if has_files(data_dir, BENCHMARKS[dataset], part):
            found = read_benchmark(data_dir, BENCHMARKS[dataset], part)
            return _placed(config, found, where(data_dir, BENCHMARKS[dataset], part))
    copy = data_dir / dataset
    return {"dataset_path": str(copy)} if dataset and copy.is_dir() else None


def _placed(config: Mapping[str, Any], found: Splits, place: str) -> dict[str, Any]:
    """The rows under the names that the task has for its splits; splits that are not there are none of the task's."""
    wanted = "test" if config.get("test_split") else "validation"
    asked = config[f"{wanted}_split"]
    rows = found.get(wanted) or found.get("validation") or found.get("test")
    if not rows:
        raise DataError(f"{place}: no rows to be asked, only {', '.join(found) or 'none at all'}.")
    splits, changes = {asked: rows}, {}
    for key in _SPLITS:
        name = str(config.get(key) or "")
        there = found.get("validation" if name == "val" else name)
        if there and name not in splits:
            splits[name] = there
        elif name and name not in splits:
            changes[key] = None
    has_examples = (config.get("fewshot_config") or {}).get("samples") or any(
        config.get(key) and changes.get(key, True) for key in ("training_split", "fewshot_split")
    )
    if not has_examples:
        # under this name the harness leaves the question itself out of its examples
        changes |= {"test_split": asked, "validation_split": None, "fewshot_split": asked}
    made = DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})
    return {**changes, "custom_dataset": _Ready(made)}


class _Ready:
    """Rows that are there already, in the place of the function that the harness calls for them."""

    def __init__(self, dataset: DatasetDict) -> None:
        self.dataset = dataset

    def __call__(self, **_: Any) -> DatasetDict:
        return self.dataset

    def __deepcopy__(self, _: Any) -> _Ready:
        return self


def _load(manager: Any, names: list[str]) -> dict[str, Any]:
    try:
        return manager.load(names)
    except (ImportError, AssertionError) as error:
        raise ResourceError(f"a task needs a package that is not there: {error}") from None
    except (OSError, RuntimeError) as error:
        # datasets' errors of the network are of these kinds
        raise ResourceError(
            f"the dataset of a task could not be loaded: {error}. --data_dir FOLDER reads files of your own."
        ) from None
    except ValueError as error:
        raise ConfigError(f"the harness refuses these tasks: {error}") from None


def _asks_greedy(task: Any) -> bool:
    metrics = getattr(task, "_metric_fn_list", {})
    if task.OUTPUT_TYPE == "multiple_choice":
        return "exact_match" in metrics
    return task.OUTPUT_TYPE == "loglikelihood" and "acc" in metrics
