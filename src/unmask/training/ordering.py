"""The settings of a run -> the plan of what is seen when, and how packed rows are filled."""

from __future__ import annotations

from datasets import Dataset

from unmask.data.build import Splits
from unmask.data.ends import PackedEnds
from unmask.errors import ConfigError, DataError
from unmask.training.arguments import Settings
from unmask.training.grouped import Filling, GroupedOrder, Grouping
from unmask.training.plan import Order, Plan, RandomLength, row_lengths


def packing_of(settings: Settings, verb: str) -> Grouping | None:
    """How documents share rows of `max_length`; None: each has a row of its own."""
    data = settings.data
    if not data.packing:
        return None
    padding = "none" if verb == "pretrain" else data.padding
    if padding == "max_length":
        raise ConfigError(
            "padding max_length fills every row by itself, so nothing is left to pack. Use padding eos, none or block, "
            "or leave packing out."
        )
    ends = PackedEnds(padding, data.block_size, data.packed_eos, data.max_length)
    return Grouping("row", data.max_length, ends, _seed_of_units(settings))


def _seed_of_units(settings: Settings) -> int | None:
    """None: they come in order."""
    in_order = settings.trainer.get("train_sampling_strategy") == "sequential"
    return None if in_order else settings.trainer.get("seed", 42)


def plan_of(settings: Settings, verb: str, splits: Splits, update: int) -> Plan:
    """What a run over a dataset that is no stream sees when.

    Args:
        settings, verb: of the run. splits: its data. update: samples of an update, or packed rows, or forwards.

    Raises:
        ConfigError: settings that exclude each other. DataError: there is nothing to see.
    """
    assert isinstance(splits.train, Dataset)
    if len(splits.train) == 0:
        raise DataError("the training set is empty. Check dataset_args.")
    seed, sampling = settings.trainer.get("seed", 42), settings.trainer.get("train_sampling_strategy", "random")
    order = Order(
        row_lengths(splits.train),
        seed=seed,
        update=update,
        shuffle=sampling != "sequential",
        by_length=sampling == "group_by_length",
        crop=RandomLength(settings.data.random_length_ratio, seed),
        mixture=splits.mixture,
    )
    grouping = packing_of(settings, verb) or _budget_of(settings, verb)
    if grouping and sampling == "group_by_length":
        raise ConfigError(
            "train_sampling_strategy group_by_length is for rows that are padded to each other's length: packing and "
            "tokens_per_batch see to that themselves. Leave it out."
        )
    return GroupedOrder(order, grouping) if grouping else order


def _budget_of(settings: Settings, verb: str) -> Grouping | None:
    data = settings.data
    if data.tokens_per_batch is None:
        return None
    if data.tokens_per_batch < data.max_length:
        raise ConfigError(
            f"tokens_per_batch ({data.tokens_per_batch}) must hold a row of max_length ({data.max_length}) at least. "
            "Raise it, or lower max_length."
        )
    padding = "none" if verb == "pretrain" or data.padding == "eos" else data.padding
    ends = PackedEnds(padding, data.block_size, max_length=data.max_length)
    return Grouping("forward", data.tokens_per_batch, ends, _seed_of_units(settings))


def refuse_budget_of_stream(settings: Settings) -> None:
    """A stream cannot be sorted by length.

    Raises:
        ConfigError: that was asked for.
    """
    if settings.data.tokens_per_batch is not None:
        raise ConfigError(
            "tokens_per_batch puts rows of similar length together, which a stream does not know beforehand. Add "
            "--streaming false, or use --packing true."
        )


def filling_of(plan: Plan) -> Filling | None:
    """How well the rows or forwards of a plan are filled; None: it has rows of one sample each."""
    return plan.filling() if isinstance(plan, GroupedOrder) else None
