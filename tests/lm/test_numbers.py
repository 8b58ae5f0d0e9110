"""A prompt has the number that it has in the request, in errors, commits and traces, however the request is divided."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import config

from tests.tiny import write_checkpoint
from unmask.errors import ConfigError
from unmask.lm import DiffusionLM, load

TEXTS = ["abcdefgh", "a", "xyz"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> DiffusionLM:
    return load(write_checkpoint(tmp_path_factory.mktemp("lm") / "model"), device="cpu")


def test_in_commits_and_traces(lm: DiffusionLM) -> None:
    divided = lm.generate(TEXTS, max_length=10, block_size=4, trace=True)
    assert [{commit.row for commit in done.trace.commits} for done in divided if done.trace] == [{0}, {1}, {2}]
    sorted_by_length = lm.generate_many(TEXTS, max_new_tokens=6, trace=True)
    rows = {number: {commit.row for commit in done.trace.commits} for number, done in sorted_by_length if done.trace}
    assert rows == {0: {0}, 1: {1}, 2: {2}}
    stream = lm.stream(TEXTS, max_length=10, block_size=4)
    written: dict[int, list[int]] = {}
    for commit in stream:
        written.setdefault(commit.row, []).extend(commit.token_ids)
    for number, done in enumerate(divided):
        assert done.trace is not None
        assert sorted(written[number]) == sorted(token for c in done.trace.commits for token in c.token_ids)


def test_in_errors(lm: DiffusionLM) -> None:
    with pytest.raises(ConfigError, match="prompt 1 holds token id 9999"):
        lm.generate([[70, 71, 72], [70, 9999]], max_length=10, block_size=4)
    with pytest.raises(ConfigError, match="prompt 0 holds token id 9999"):
        list(lm.generate_many([[70, 71, 72, 9999], [75], [70, 71]], max_new_tokens=4))


def test_seeds_may_be_numbers_of_another_library(lm: DiffusionLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(config), "jaxtyping_disable", True)  # as users have it
    settings = {"max_new_tokens": 8, "temperature": 1.0}
    one, other = (lm.generate(TEXTS, seeds=seeds, **settings) for seeds in ([4, 5, 6], np.arange(4, 7)))
    assert one == other == lm.generate(TEXTS, seed=np.int64(4), **settings)
    with pytest.raises(ConfigError, match="a seed is 'x'; it must be a whole number"):
        lm.generate("a", seeds=["x"], **settings)
