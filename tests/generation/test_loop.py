from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.generation.toys import Contextual, Recorder, Scripted
from unmask.errors import ConfigError, ModelError
from unmask.generation.loop import generate, infill, stream, stream_infill
from unmask.generation.options import GenerationOptions
from unmask.generation.trace import Completion
from unmask.registry import STRATEGIES

MASK, STOP, PAD = 15, 7, 0
PROMPTS = [[1, 2, 3, 4, 5], [6], [8, 9, 10]]


def decode(
    denoiser: Recorder, prompts: list[list[int]], *, seeds: list[int] | None = None, **settings: Any
) -> list[Completion]:
    options = GenerationOptions.of(**{"max_new_tokens": 8, "block_size": 4, "steps": 4, **settings})
    return generate(
        denoiser, prompts, options=options, mask_token_id=MASK, stop_token_ids=(STOP,), seeds=seeds, vocab_size=16
    )


def ids(completions: list[Completion]) -> list[list[int]]:
    return [done.token_ids for done in completions]


@pytest.mark.parametrize("early_stop", [True, False])
def test_no_stop_token_comes_too_early_whether_or_not_rows_end_there(early_stop: bool) -> None:
    wants_to_stop = Scripted([STOP] * 7, [5.0] * 7)
    done = decode(wants_to_stop, [[1]], max_new_tokens=6, min_new_tokens=4, early_stop=early_stop)[0]
    assert STOP not in done.token_ids[:4]
    assert done.token_ids[4:] == ([] if early_stop else [STOP, STOP])


VARIANTS = [
    {"strategy": "confidence"},
    {"strategy": "random"},
    {"strategy": "threshold", "threshold": 0.6},
    {"temperature": 1.0},
    {"temperature": 0.7, "strategy": "random", "guidance_scale": 1.0, "precise_sampling": True},
    {"early_stop": False},
    {"block_size": 3, "steps": 5, "reveal": "rounded", "noise_schedule": "cosine"},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_row_of_a_batch_is_the_row_alone(settings: dict[str, Any]) -> None:
    together = decode(Contextual(), PROMPTS, seeds=[11, 12, 13], **settings)
    for row, prompt in enumerate(PROMPTS):
        alone = decode(Contextual(), [prompt], seeds=[11 + row], **settings)[0]
        assert alone.token_ids == together[row].token_ids
        assert alone.finish_reason == together[row].finish_reason
        assert alone.stats.forwards == together[row].stats.forwards


def test_batch_mates_that_stop_early_or_work_longer_change_nothing() -> None:
    settings: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 12, "strategy": "threshold", "threshold": 0.5}
    prompts = [[seed % 7, seed % 5, seed % 3] for seed in range(20)]
    model = Contextual()
    model.place[:, STOP] += 8
    together = decode(model, prompts, seeds=list(range(20)), **settings)
    assert {done.finish_reason for done in together} == {"stop", "length"}
    for row in range(20):
        assert decode(model, [prompts[row]], seeds=[row], **settings)[0].token_ids == together[row].token_ids


@pytest.mark.parametrize("special", [MASK, STOP, PAD])
def test_a_prompt_may_hold_any_special_token(special: int) -> None:
    prompt = [special, 1, special]
    model = Contextual()
    done = decode(model, [prompt, [2]], early_stop=False)[0]
    assert len(done.token_ids) == 8 and MASK not in done.token_ids
    assert all(tokens[0, :3].tolist() == prompt for tokens in model.tokens)
    assert decode(Contextual(), [prompt])[0].finish_reason in ("stop", "length")


def test_an_empty_prompt_and_no_prompts() -> None:
    assert len(decode(Contextual(), [[]], early_stop=False)[0].token_ids) == 8
    assert decode(Contextual(), []) == []


def test_a_model_that_wants_only_the_mask_ends_in_time() -> None:
    model = Scripted([MASK] * 9, [100.0] * 9)
    done = decode(model, [[1]], early_stop=False)[0]
    assert MASK not in done.token_ids
    assert done.stats.forwards.total == 4


def test_a_stop_token_written_out_of_order_does_not_cut_what_is_before_it() -> None:
    script = [1, 10, 11, 12, STOP, 13, 14, 15, 13]
    strength = [0.0, 1.0, 2.0, 3.0, 9.0, 1.0, 1.0, 1.0, 1.0]
    model = Scripted(script, strength)
    done = decode(model, [[1]], block_size=8, steps=8)[0]
    assert done.token_ids == [10, 11, 12] and done.finish_reason == "stop"
    assert done.stats.forwards.total == 4  # the stop token first, then the three before it; nothing after it
    whole = decode(Scripted(script, strength), [[1]], block_size=8, steps=8, early_stop=False)[0]
    assert whole.token_ids[:3] == done.token_ids and len(whole.token_ids) == 8
    assert whole.finish_reason == "length"


def test_rows_leave_the_batch_when_they_are_finished_and_when_they_wait() -> None:
    class Mixed(Scripted):
        def logits_BLV(self, tokens_BL: torch.Tensor, is_valid_BL: torch.Tensor) -> torch.Tensor:
            logits_BLV = super().logits_BLV(tokens_BL, is_valid_BL).clone()
            logits_BLV[tokens_BL[:, 0] == 2, :, STOP] = 50.0
            return logits_BLV

    model = Mixed([1] + [9] * 8, [5.0] * 9)
    done = decode(model, [[1], [2], [1]], block_size=4, steps=8)
    assert [row.finish_reason for row in done] == ["length", "stop", "length"]
    assert [shape[0] for shape in model.shapes] == [3] + [2] * 7
    assert done[1].token_ids == [] and done[1].stats.emitted == 0


def test_the_longest_row_takes_its_padding_with_it() -> None:
    class StopsFirst(Contextual):
        def logits_BLV(self, tokens_BL: torch.Tensor, is_valid_BL: torch.Tensor) -> torch.Tensor:
            logits_BLV = super().logits_BLV(tokens_BL, is_valid_BL)
            logits_BLV[..., STOP] = -100.0
            logits_BLV[tokens_BL[:, 0] == 1, :, STOP] = 1000.0
            return logits_BLV

    model = StopsFirst()
    decode(model, [[1, 2, 3, 4], [2], [5]])
    assert model.shapes[0] == (3, 12) and set(model.shapes[1:]) == {(2, 9)}
    assert model.attention[0] is not None and set(model.attention[1:]) == {None}


def test_the_head_is_asked_only_where_something_may_be_written() -> None:
    model = Contextual()
    decode(model, [[1, 2], [3]], block_size=4, steps=8, early_stop=False)
    assert model.asked == [8, 6, 4, 2, 8, 6, 4, 2]


def test_a_second_run_is_as_the_first_even_after_one_was_dropped() -> None:
    model, settings = Contextual(), GenerationOptions(max_new_tokens=8, block_size=4, steps=8, temperature=1.0)
    first = generate(model, PROMPTS, options=settings, mask_token_id=MASK)
    dropped = iter(stream(model, [[9, 9]], options=settings, mask_token_id=MASK))
    next(dropped)
    assert generate(model, PROMPTS, options=settings, mask_token_id=MASK) == first


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_the_stream_adds_up_to_the_completion_and_nothing_is_changed_twice(settings: dict[str, Any]) -> None:
    options = GenerationOptions.of(**{"max_new_tokens": 8, "block_size": 4, "steps": 4, **settings})
    run = stream(Contextual(), PROMPTS, options=options, mask_token_id=MASK, stop_token_ids=(STOP,))
    written: list[dict[int, int]] = [{} for _ in PROMPTS]
    for commit in run:
        assert list(commit.positions) == sorted(commit.positions) and commit.positions
        assert all(0 < confidence <= 1 for confidence in commit.confidences)
        for place, token in zip(commit.positions, commit.token_ids, strict=True):
            assert place not in written[commit.row] and place >= len(PROMPTS[commit.row])
            written[commit.row][place] = token
    for row, done in enumerate(run.completions()):
        places = range(len(PROMPTS[row]), len(PROMPTS[row]) + len(done.token_ids))
        assert [written[row][place] for place in places] == done.token_ids
    assert ids(run.completions()) == ids(decode(Contextual(), PROMPTS, **settings))


def test_the_trace_replays_the_row() -> None:
    done = decode(Contextual(), PROMPTS, trace=True, early_stop=False)[2]
    assert done.trace is not None
    row = list(done.trace.token_ids)
    assert row == [8, 9, 10] + [MASK] * 8 and done.trace.masked == tuple(range(3, 11))
    for commit in done.trace.commits:
        for place, token in zip(commit.positions, commit.token_ids, strict=True):
            row[place] = token
    assert row[3:] == done.token_ids
    data = json.loads(done.trace.to_json())
    assert set(data) == {"token_ids", "masked", "commits"} and len(data["commits"]) == len(done.trace.commits)
    assert decode(Contextual(), PROMPTS)[0].trace is None


def test_confidences_are_probabilities_without_temperature() -> None:
    model = Scripted([1] + [9] * 8, [0.0] + [1.0] * 8)
    for commit in stream(
        model, [[1]], options=GenerationOptions(max_new_tokens=8, steps=8, temperature=3.0), mask_token_id=MASK
    ):
        # 15 tokens can be had: fourteen with weight 1, one with weight e.
        weight = np.e if commit.token_ids[0] == 9 else 1.0
        assert commit.confidences[0] == pytest.approx(weight / (14 + np.e), rel=1e-5)


def test_figures_agree_with_what_the_denoiser_saw() -> None:
    model = Contextual()
    done = decode(model, PROMPTS, strategy="threshold", threshold=0.4)
    assert sum(row.stats.positions for row in done) == sum(rows * length for rows, length in model.shapes)
    assert sum(row.stats.forwards.total for row in done) == sum(rows for rows, _ in model.shapes)
    assert [row.stats.emitted for row in done] == [len(row.token_ids) for row in done]
    assert all(row.stats.forwards.commit == row.stats.forwards.refresh == 0 for row in done)


@pytest.mark.parametrize("reveal", ["even", "rounded"])
@pytest.mark.parametrize(("masks", "steps"), [(8, 3), (8, 8), (7, 20), (1, 1), (13, 5), (6, 1)])
def test_as_many_commits_as_masks_within_the_steps(reveal: str, masks: int, steps: int) -> None:
    options = GenerationOptions.of(
        max_new_tokens=masks, block_size=None, steps=steps, reveal=reveal, early_stop=False, trace=True
    )
    done = generate(Contextual(), [[1]], options=options, mask_token_id=MASK)[0]
    assert done.trace is not None
    counts = [len(commit.positions) for commit in done.trace.commits]
    assert sum(counts) == masks and len(counts) <= steps and min(counts) >= 1
    if reveal == "even":
        assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)


def test_sampled_tokens_have_the_tempered_distribution() -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 1.0])
    model = Scripted([0] * 4, [0.0] * 4, vocab_size=7)
    model.table_LV = torch.tensor(np.append(np.log(weights), 30.0), dtype=torch.float32).expand(4, -1)
    # In random order: choosing by confidence prefers positions whose sample happens to be probable.
    options = GenerationOptions(
        max_new_tokens=4, block_size=2, steps=4, temperature=0.5, early_stop=False, strategy="random"
    )
    rows = 1000
    done = generate(model, [[]] * rows, options=options, mask_token_id=6)
    expected = rows * weights**2 / (weights**2).sum()
    for place in range(4):
        counts = np.bincount([row.token_ids[place] for row in done], minlength=6)
        assert ((counts - expected) ** 2 / expected).sum() < 20.52  # 0.999 quantile, 5 degrees of freedom
    pairs = np.zeros((6, 6))
    for row in done:
        pairs[row.token_ids[0], row.token_ids[1]] += 1
    independent = np.outer(expected, expected) / rows
    assert ((pairs - independent) ** 2 / independent).sum() < 66.62  # 0.999 quantile, 35 degrees of freedom


def test_seeds_decide() -> None:
    settings: dict[str, Any] = {"temperature": 1.5, "early_stop": False}
    one, two = (ids(decode(Contextual(), [[1]] * 2, **settings, seed=seed)) for seed in (5, 6))
    assert one[0] != one[1] and one[1] == two[0]  # row i uses seed + i
    assert ids(decode(Contextual(), [[1]] * 2, seeds=[6, 5], **settings)) == one[::-1]


def test_suppressed_tokens_never_come() -> None:
    written = {token for done in decode(Contextual(), PROMPTS, early_stop=False) for token in done.token_ids}
    allowed = 16 - 1 - len(written)
    assert allowed > 0
    again = decode(Contextual(), PROMPTS, early_stop=False, suppress_tokens=sorted(written))
    assert not written & {token for done in again for token in done.token_ids}


def test_tokens_that_begin_suppressed_come_last() -> None:
    # End tokens are the surest everywhere right of the answer: decoded by confidence alone, they fill up first.
    model = Scripted([1, 10, 11, STOP, STOP, STOP, STOP], [0.0, 2.0, 2.0, 8.0, 8.0, 8.0, 8.0])
    options = {"max_new_tokens": 6, "block_size": 6, "steps": 6, "early_stop": False, "trace": True}
    first = decode(model, [[1]], **options)[0]
    last = decode(model, [[1]], **options, begin_suppress_tokens=(STOP,))[0]
    assert first.token_ids == last.token_ids
    assert first.trace is not None and last.trace is not None
    assert [commit.positions[0] for commit in first.trace.commits] == [3, 4, 5, 6, 1, 2]
    assert [commit.positions[0] for commit in last.trace.commits] == [1, 2, 3, 4, 5, 6]


def test_infilling_changes_nothing_but_the_blanks() -> None:
    rows = [[1, MASK, 3, 4, MASK, MASK], [5, 6, MASK]]
    done = infill(Contextual(), rows, options=GenerationOptions(block_size=2), mask_token_id=MASK)
    for row, filled in zip(rows, done, strict=True):
        assert all(new == old for new, old in zip(filled.token_ids, row, strict=True) if old != MASK)
        assert MASK not in filled.token_ids
    assert [row.stats.emitted for row in done] == [3, 1]


def test_infilling_by_booleans_leaves_a_literal_mask_alone() -> None:
    rows, editable = [[MASK, 2, 3]], [[False, False, True]]
    done = infill(Contextual(), rows, editable, options=GenerationOptions(), mask_token_id=MASK)[0]
    assert done.token_ids[:2] == [MASK, 2] and done.token_ids[2] != MASK


def test_a_stop_token_does_not_end_infilling() -> None:
    model = Scripted([STOP] * 4, [5.0] * 4)
    done = infill(model, [[MASK, 1, MASK, MASK]], options=GenerationOptions(), mask_token_id=MASK)[0]
    assert done.token_ids == [STOP, 1, STOP, STOP] and done.finish_reason == "length"


def test_blocks_without_blanks_cost_no_forward() -> None:
    model = Contextual()
    infill(model, [[1] * 12 + [MASK]], options=GenerationOptions(block_size=4), mask_token_id=MASK)
    assert len(model.shapes) == 1
    assert ids(infill(model, [[1, 2]], options=GenerationOptions(), mask_token_id=MASK)) == [[1, 2]]
    assert len(model.shapes) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_infilled_row_of_a_batch_is_the_row_alone(temperature: float) -> None:
    rows = [[1, MASK, MASK, 4, MASK], [MASK] * 9, [3, MASK]]
    options = GenerationOptions(block_size=3, steps_per_block=2, temperature=temperature)
    together = infill(Contextual(), rows, options=options, mask_token_id=MASK, seeds=[4, 5, 6])
    for index, row in enumerate(rows):
        alone = infill(Contextual(), [row], options=options, mask_token_id=MASK, seeds=[4 + index])
        assert alone[0].token_ids == together[index].token_ids


def test_infilling_streams_too() -> None:
    rows = [[1, MASK, 3, MASK], [MASK, 2]]
    run = stream_infill(Contextual(), rows, options=GenerationOptions(), mask_token_id=MASK)
    places = sorted((commit.row, place) for commit in run for place in commit.positions)
    assert places == [(0, 1), (0, 3), (1, 0)]


def test_a_strategy_that_never_commits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES.table, "idle", "tests.generation.toys:Idle")
    with pytest.raises(ConfigError, match='Strategy "idle" left masks in block 0'):
        decode(Contextual(), [[1]], strategy="idle")


def test_logits_that_are_not_numbers_are_an_error() -> None:
    class Broken(Contextual):
        def logits_BLV(self, tokens_BL: torch.Tensor, is_valid_BL: torch.Tensor) -> torch.Tensor:
            # Only at first: later forwards are fine again.
            broken = float("nan") if len(self.shapes) == 1 else 1.0
            return super().logits_BLV(tokens_BL, is_valid_BL) * broken

    for temperature in (0.0, 1.0):
        with pytest.raises(ModelError, match="logits are not finite"):
            decode(Broken(), [[1]], temperature=temperature)


@pytest.mark.parametrize(
    ("settings", "prompts", "phrase"),
    [
        ({}, [[1], [16]], "prompt 1 holds token id 16; the model knows ids 0 to 15"),
        ({}, [[-1]], "prompt 0 holds token id -1"),
        ({"seeds": [1, 2]}, [[1]], "2 seeds for 1 rows"),
        ({"suppress_tokens": (99,)}, [[1]], "suppressed token id 99 is unknown"),
        ({"suppress_tokens": tuple(range(15))}, [[1]], "nothing is left to write"),
    ],
)
def test_wrong_ids_are_named(settings: dict[str, Any], prompts: list[list[int]], phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        decode(Contextual(), prompts, **settings)


def test_editable_must_fit_its_rows() -> None:
    with pytest.raises(ConfigError, match="one boolean for each token"):
        infill(Contextual(), [[1, 2]], [[True]], options=GenerationOptions(), mask_token_id=MASK)
