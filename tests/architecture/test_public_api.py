"""The names that users import. A change here is a change for them: it belongs in the changelog."""

from __future__ import annotations

import importlib.util

import pytest

import unmask

PUBLIC = ["DiffusionLM", "UnmaskError", "__version__", "load"]


def test_public_names_are_frozen() -> None:
    assert sorted(unmask.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_there(name: str) -> None:
    if name in {"DiffusionLM", "load"} and importlib.util.find_spec("unmask.lm") is None:
        pytest.skip("unmask.lm is not written yet")
    assert getattr(unmask, name) is not None
    assert name in dir(unmask)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = unmask.nothing_like_it
