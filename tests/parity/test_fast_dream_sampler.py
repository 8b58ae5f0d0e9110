"""Tokens equal those of dLLM's Fast-dLLM sampler for Dream, on the same weights, step by step.

With a cache, it writes the first position of a block from the forward that fills the cache, unasked, and only then goes
by its rule: `FirstThen` does the same, and the rest is ours. Without one, it knows no blocks, and with a threshold it
commits no more than its schedule allows, which is one token a step here: the order of confidence.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.parity.following import proposes_masks
from tests.parity.test_dream_sampler import GOLDEN, SCORES, loaded
from tests.parity.test_llada_sampler import MASK, assert_same_steps
from unmask.generation.canvas import Canvas
from unmask.generation.loop import generate, stream
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal
from unmask.generation.strategy import DecodingStrategy, Step, Transfer, best
from unmask.registry import STRATEGIES

# the mask token has a share of the probability in the reference, and what it writes may be the mask token itself
MASKED, STUCK = {9, 14}, {0, 2, 3, 15}
ERRORS = {16, 17, 18, 19, 20, 21}


class FirstThen:
    """The first position of a block, then what Dream's time schedule says of those left, or a threshold."""

    steps: ClassVar[int] = 8

    def __init__(self, options: GenerationOptions) -> None:
        self.rule: DecodingStrategy = STRATEGIES.get("dream" if options.threshold is None else "threshold")(options)
        self.score, self.has_quota = options.score, options.threshold is None
        self.time = torch.linspace(1, 1e-3, self.steps + 1)

    def init(self, rows: int) -> Any:
        """As the rule's."""
        return self.rule.init(rows)

    def select(self, proposal: Proposal, canvas: Canvas, step: Step, state: Any) -> Transfer:
        """See `DecodingStrategy`."""
        (within,) = {min(step.withins), *(step.withins if self.has_quota else ())}
        if within == 0:
            assert set(step.withins) == {0}
            first_BL = torch.zeros_like(proposal.pending_BL)
            first_BL[:, 0] = True
            return Transfer(first_BL)
        if not self.has_quota:
            return self.rule.select(proposal, canvas, step, state)
        share = 1 - self.time[within + 1] / self.time[within] if within < self.steps - 1 else torch.ones(())
        quota_B = (proposal.pending_BL.sum(1) * share).long()
        order_BL = proposal.log_prob_BL if self.score == "confidence" else -proposal.entropy_BL
        return Transfer(best(order_BL, proposal.pending_BL, quota_B))


@cache
def golden() -> list[dict[str, Any]]:
    file = GOLDEN / "fastdllm_dream_sampler.json"
    return json.loads(file.read_text()) if file.is_file() else []


def entries(numbers: set[int] | None = None) -> list[Any]:
    """Entries that equal ours as they are, or only these."""
    ours = set(range(len(golden()))) - MASKED - STUCK - ERRORS if numbers is None else numbers
    return [pytest.param(golden()[number], id=str(number)) for number in sorted(ours) if number < len(golden())]


@pytest.fixture
def options(entry: dict[str, Any], shared: Path, monkeypatch: pytest.MonkeyPatch) -> GenerationOptions:
    settings = entry["settings"]
    given = {"max_new_tokens": settings["max_new_tokens"], "steps": settings["steps"], "early_stop": False}
    given["score"] = SCORES.get(settings["alg"], "confidence")
    if not settings.get("use_cache"):
        return GenerationOptions.of(**given, block_size=None, cache="none", strategy="dream", reveal="rounded")
    monkeypatch.setitem(STRATEGIES.table, "first_then", "tests.parity.test_fast_dream_sampler:FirstThen")
    given |= {"block_size": settings["block_size"], "cache": settings["use_cache"]}
    return GenerationOptions.of(**given, strategy="first_then", threshold=settings.get("threshold"))


@pytest.mark.parametrize("entry", entries())
def test_dllm(entry: dict[str, Any], options: GenerationOptions) -> None:
    assert_same_steps(stream(loaded(True), entry["inputs"], options=options, mask_token_id=MASK), entry)


@pytest.mark.parametrize("entry", entries(MASKED))
def test_dllm_with_a_share_for_the_mask_token(entry: dict[str, Any], options: GenerationOptions) -> None:
    model = proposes_masks(loaded(True), MASK)
    assert_same_steps(stream(model, entry["inputs"], options=options, mask_token_id=MASK), entry)


@pytest.mark.parametrize("entry", entries(STUCK))
def test_a_mask_that_the_reference_writes_is_a_token_here(entry: dict[str, Any], options: GenerationOptions) -> None:
    left = [[row.count(MASK) for row in state] for state in entry["histories"]]
    assert any(before == after for before, after in zip(left[3:], left[4:], strict=False))
    named = generate(proposes_masks(loaded(True), MASK), entry["inputs"], options=options, mask_token_id=MASK)
    assert any(MASK + 1 in row.token_ids for row in named)
    done = generate(loaded(True), entry["inputs"], options=options, mask_token_id=MASK)
    assert not any(MASK in row.token_ids for row in done)


@pytest.mark.parametrize("entry", entries(ERRORS))
def test_where_the_reference_fails_a_row_of_a_batch_is_the_row_alone(
    entry: dict[str, Any], options: GenerationOptions
) -> None:
    assert "error" in entry
    together = generate(loaded(True), entry["inputs"], options=options, mask_token_id=MASK)
    for prompt, row in zip(entry["inputs"], together, strict=True):
        assert generate(loaded(True), [prompt], options=options, mask_token_id=MASK)[0].token_ids == row.token_ids


def test_every_entry_is_there(shared: Path) -> None:
    counts = [len(found) for found in (entries(), entries(MASKED), entries(STUCK), entries(ERRORS))]
    assert counts == [10, 2, 4, 6] and sum(counts) == len(golden())
