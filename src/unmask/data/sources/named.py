"""The datasets that the settings of a run name, opened together: what is trained on, what is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from unmask.data.settings import DataSettings, Mode
from unmask.data.sources import Opened, is_local, local_files, open_dataset
from unmask.data.sources.parts import content_digest
from unmask.data.spec import DatasetSpec, parse_dataset_args
from unmask.errors import ConfigError

# rows of a stream that are set aside where evaluation is asked for and nothing is named for it
_STREAMED_TEST_ROWS = 100


@dataclass(frozen=True)
class Sources:
    """The datasets that settings name, opened; nothing is read yet.

    Attributes:
        trained: to learn from. evaluated: named for evaluation alone; their test rows replace the others'.
        streaming: read while training. notes: for the user.
    """

    trained: list[Opened]
    evaluated: list[Opened]
    streaming: bool
    notes: list[str]


def open_sources(data: DataSettings, mode: Mode, *, hold_out: bool = False, stream_hub: bool | None = None) -> Sources:
    """Open all pieces of `dataset_args` and of `eval_dataset_args`.

    Args:
        data: which data. mode: what for.
        hold_out: set rows aside where none are for evaluation: 1 %, of a stream the first 100.
        stream_hub: stream Hub data where the settings do not say; default: in pretraining.

    Raises:
        ConfigError: the settings contradict each other. DataError: the data is missing.
    """
    if not data.dataset_args:
        raise ConfigError("no dataset: give dataset_args, for example --dataset_args data/train.jsonl[test:5%]")
    specs = parse_dataset_args(data.dataset_args)
    evaluated = parse_dataset_args(data.eval_dataset_args) if data.eval_dataset_args else []
    weighted = next((spec for spec in evaluated if spec.weight is not None), None)
    if weighted:
        raise ConfigError(
            f'dataset "{weighted}": evaluation sees every row once, so weight has no effect; leave it out'
        )
    streaming = _streams(data, specs, mode == "pretrain" if stream_hub is None else stream_hub)
    opened = [open_dataset(spec, streaming=streaming) for spec in specs]
    tested = [open_dataset(spec, streaming=streaming and few(spec)) for spec in evaluated]
    notes = _same_files(specs, evaluated)
    if hold_out and not tested and not any(_is_evaluated(one, streaming) for one in opened):
        opened = [replace(one, spec=replace(one.spec, test=_held_out(streaming))) for one in opened]
        what = f"the first {_STREAMED_TEST_ROWS} rows are held out" if streaming else "1 % is held out"
        named = "+".join(str(one.spec) for one in opened)
        notes = [f"no rows are named for evaluation, so {what}: {named}", *notes]
    return Sources(opened, tested, streaming, notes)


def _is_evaluated(opened: Opened, streaming: bool) -> bool:
    # Of a stream, rows are evaluated only if it is said how many.
    return opened.made or opened.spec.test is not None or (opened.test is not None and not streaming)


def _held_out(streaming: bool) -> int | float:
    return _STREAMED_TEST_ROWS if streaming else 0.01


def few(spec: DatasetSpec) -> bool:
    """A few rows of a Hub dataset are streamed where the run streams, all of them are not."""
    return isinstance(spec.test, int) and not is_local(spec)


def _streams(data: DataSettings, specs: list[DatasetSpec], stream_hub: bool) -> bool:
    if data.streaming is not None:
        return data.streaming
    return stream_hub and not data.load_preprocessed_data and not all(is_local(spec) for spec in specs)


def _same_files(trained: list[DatasetSpec], evaluated: list[DatasetSpec]) -> list[str]:
    """Notes on files that are both learned from and evaluated on, found by size and sha256."""
    ours = [file for spec in trained for file in local_files(spec)]
    theirs = [file for spec in evaluated for file in local_files(spec)]
    pairs = ((left, right) for left in ours for right in theirs if left.stat().st_size == right.stat().st_size)
    same = next(((left, right) for left, right in pairs if left.suffix != ".lock" and _same(left, right)), None)
    if same is None:
        return []
    return [f"warning: eval file equals train file (same sha256): {same[1]} and {same[0]}"]


def _same(left: Path, right: Path) -> bool:
    return left.samefile(right) or content_digest(left) == content_digest(right)
