"""A model that runs out of memory says so in a sentence, whatever it was asked for, and stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.tiny import write_checkpoint
from unmask.errors import OutOfMemoryError
from unmask.lm import DiffusionLM, load


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> DiffusionLM:
    return load(write_checkpoint(tmp_path_factory.mktemp("lm") / "model"), device="cpu")


ASKED: list[Callable[[DiffusionLM], Any]] = [
    lambda lm: lm.generate("the capital", max_new_tokens=8),
    lambda lm: list(lm.stream("the capital", max_new_tokens=8)),
    lambda lm: list(lm.generate_many(["the capital"], max_new_tokens=8)),
    lambda lm: lm.infill("the [MASK:1-2] capital"),
    lambda lm: lm.log_likelihood("the", " capital", samples=1),
]


def too_large(*_: Any, **__: Any) -> None:
    torch.empty(2**60, dtype=torch.uint8)


def none_left(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def nothing_to_be_had(*_: Any, **__: Any) -> None:
    raise MemoryError


@pytest.mark.parametrize("fails", [too_large, none_left, nothing_to_be_had])
@pytest.mark.parametrize("ask", ASKED)
def test_it_is_told(
    ask: Callable[[DiffusionLM], Any], fails: Callable[..., None], lm: DiffusionLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm.model.train()
    with monkeypatch.context() as broken:
        broken.setattr(lm.model, "forward", fails)
        with pytest.raises(OutOfMemoryError, match="cpu ran out of memory.*batch_size.*max_new_tokens"):
            ask(lm)
    assert lm.model.training
    assert lm.generate("the capital", max_new_tokens=8)
    lm.model.eval()


@pytest.mark.parametrize("ask", [ASKED[0], ASKED[3]])
def test_it_is_told_before_anything_is_written(
    ask: Callable[[DiffusionLM], Any], lm: DiffusionLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.generation.canvas.Canvas.widened", too_large)
    with pytest.raises(OutOfMemoryError, match="cpu ran out of memory"):
        ask(lm)


def test_other_errors_are_let_through(lm: DiffusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(lm.model, "forward", wrong)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        lm.generate("the capital", max_new_tokens=8)
