"""A model at work for somebody: in evaluation mode, its errors about memory explained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from unmask.errors import OutOfMemoryError
from unmask.models.shell import DiffusionModel
from unmask.models.shortage import shortage_as


@contextmanager
def at_work(model: DiffusionModel) -> Iterator[None]:
    """Dropout off, and on again where it was.

    Raises:
        OutOfMemoryError: see `shortage_told`.
    """
    was_training = model.training
    model.eval()
    try:
        with shortage_told(model):
            yield
    finally:
        model.train(was_training)


def shortage_told(model: DiffusionModel) -> AbstractContextManager[None]:
    """What is done for a model, a shortage of memory explained.

    Raises:
        OutOfMemoryError: memory did not suffice inside the context.
    """
    told = (
        f"{model.device} ran out of memory. Read fewer rows at a time (batch_size), write shorter texts "
        "(max_new_tokens), or load the model in a smaller dtype or quantised."
    )
    return shortage_as(lambda: OutOfMemoryError(told))
