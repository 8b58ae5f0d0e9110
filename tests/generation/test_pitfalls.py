"""Twenty mistakes that decoders of diffusion models make, one test each: here, or where the table says.

| no. | mistake | tests |
|---|---|---|
| 1 | a padding mask that is ignored, or makes the model causal | tests/contract/test_families.py::test_padding_changes_nothing_at_real_positions, tests/contract/test_families.py::test_later_tokens_influence_earlier_logits_but_in_autoregressive_models |
| 2 | rotary positions that count padding | tests/contract/test_families.py::test_rotary_positions_are_relative_and_given_ones_are_used, tests/parity/test_bd3lm_sampler.py::test_tokens |
| 3 | special tokens in a prompt taken for padding, ends or masks | test_03, tests/generation/test_loop.py::test_a_prompt_may_hold_any_special_token |
| 4 | a model that predicts the mask token | tests/generation/test_loop.py::test_a_model_that_wants_only_the_mask_ends_in_time, tests/generation/test_proposal.py::test_the_mask_is_never_sampled_whatever_the_number_drawn |
| 5 | approximate caches that are staler than they say, or right for one row only | tests/generation/caching/test_windowed_caches.py::test_until_a_refresh_the_rest_answers_to_what_was_there_when_the_block_began, tests/generation/caching/test_windowed_caches.py::test_rows_at_blocks_of_their_own_share_a_forward_of_their_windows, tests/generation/caching/test_windowed_caches.py::test_refreshed_at_every_step_they_are_exact |
| 6 | guidance that shares one cache | tests/generation/caching/test_block_cache.py::test_logits_are_those_without_it, tests/generation/test_guidance.py::test_guidance_towards_nothing_changes_nothing |
| 7 | confidence that rounds to one | test_07, tests/generation/test_proposal.py::test_half_precision_logits_are_compared_in_float32, tests/contract/test_strategies.py::test_ties_go_to_the_earlier_position |
| 8 | sampling that is colder than asked, and confidence with temperature in it | tests/generation/test_loop.py::test_sampled_tokens_have_the_tempered_distribution, tests/generation/test_loop.py::test_confidences_are_probabilities_without_temperature, tests/generation/test_loop.py::test_seeds_decide |
| 9 | a row that depends on its batch | tests/generation/caching/test_block_cache.py::test_rows_that_leave_at_different_times_leave_the_others_as_they_were, tests/generation/caching/test_windowed_caches.py::test_a_row_of_a_ragged_batch_is_the_row_alone |
| 10 | end tokens that fill a block from behind | test_10, tests/generation/test_loop.py::test_tokens_that_begin_suppressed_come_last |
| 11 | an end token that cuts what is not yet written before it | test_11, tests/generation/test_loop.py::test_a_stop_token_written_out_of_order_does_not_cut_what_is_before_it |
| 12 | a best token per batch instead of per row; a last mask that need not pass | tests/contract/test_strategies.py::test_masks_are_written_in_every_active_row_and_nothing_that_is_given_changes, tests/contract/test_strategies.py::test_a_looser_knob_writes_no_less, tests/generation/strategies/test_factor.py::test_worked_examples |
| 13 | state that passes from one request to the next | test_13, tests/contract/test_strategies.py::test_nothing_passes_from_one_request_to_the_next_nor_from_one_that_was_broken_off |
| 14 | shifted logits at the first position of a block | test_14, tests/models/test_shift.py::test_two_streams_predict_what_decoding_block_after_block_does |
| 15 | a prompt that ends within a block | test_15 |
| 16 | text that is streamed and changed later; stop strings across blocks | tests/generation/test_loop.py::test_the_stream_adds_up_to_the_completion_and_nothing_is_changed_twice, tests/test_lm.py::test_the_stream_ends_in_the_generation, tests/test_lm.py::test_a_stop_string_ends_a_row_across_blocks |
| 17 | tokens, forwards and positions counted wrongly | tests/generation/test_loop.py::test_figures_agree_with_what_the_denoiser_saw, tests/generation/caching/test_windowed_caches.py::test_figures_agree_with_what_the_model_was_fed, tests/generation/caching/test_block_cache.py::test_every_column_is_fed_once_as_text_and_blocks_once_a_step |
| 18 | schedules that do not add up | tests/generation/test_loop.py::test_as_many_commits_as_masks_within_the_steps, tests/diffusion/test_posterior.py::test_rounded_rows_add_up_and_end_in_zeros, tests/diffusion/test_posterior.py::test_truncated_rows_add_up_and_end_in_zeros |
| 19 | grammars that judge each position by itself | test_19, tests/generation/test_grammar.py::test_a_token_is_allowed_where_some_completion_has_it_and_only_there, tests/generation/test_grammar.py::test_every_strategy_stays_in_the_language |
| 20 | rows that see nothing | test_20, tests/models/test_attention.py::test_a_row_of_padding_alone_gives_no_nan_and_no_nan_gradient |
"""  # noqa: E501

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.generation.caching.spy import MASK
from tests.generation.toys import Scripted
from tests.models.tiny import build
from unmask.generation.automaton import Automaton
from unmask.generation.loop import generate, stream, stream_rows
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Waiting
from unmask.generation.trace import Completion
from unmask.models.shell import DiffusionModel
from unmask.registry import FAMILIES
from unmask.types import AttentionSpec

STOP, PAD = 7, 0
BIDIRECTIONAL = ("none", "prefix", "dual", "vicinity", "interval")
WAYS = [*(("dream", "bidirectional", name) for name in BIDIRECTIONAL), ("llada2", "block_causal", "none")]
WAYS += [(kind, "block_causal", "block") for kind in ("llada2", "dream")]
ways = pytest.mark.parametrize(("kind", "attention", "cache_name"), WAYS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def model_in(folder: Path, kind: str) -> DiffusionModel:
    return build(folder / kind, FAMILIES.get(kind)).double().eval()


def options(**changes: Any) -> GenerationOptions:
    given = {"max_new_tokens": 10, "block_size": 4, "steps_per_block": 4, "precise_sampling": True, **changes}
    return GenerationOptions.of(**given)


def texts(done: list[Completion]) -> list[tuple[list[int], str]]:
    return [(row.token_ids, row.finish_reason) for row in done]


def test_every_place_in_the_table_is_a_test() -> None:
    assert __doc__ is not None
    rows = [line.split("|") for line in __doc__.splitlines() if re.match(r"\| \d+ ", line)]
    assert [int(row[1]) for row in rows] == list(range(1, 21))
    root, here = Path(__file__).parents[2], Path(__file__).read_text()
    for row in rows:
        for place in row[3].split(","):
            file, _, name = place.strip().rpartition("::")
            if not name.startswith("none: "):
                text = (root / file).read_text() if file else here
                assert re.search(rf"^def {name}{'' if file else '_'}", text, re.MULTILINE), place


@ways
def test_03_special_tokens_in_a_prompt_are_text(kind: str, attention: str, cache_name: str, folder: Path) -> None:
    model = model_in(folder, kind)
    prompts = [[MASK, STOP, 1, PAD, MASK], [STOP] * 3, [PAD, PAD, PAD, PAD, MASK, MASK]]
    settings = options(attention=attention, cache=cache_name, trace=True)
    together = generate(model, prompts, options=settings, mask_token_id=MASK, stop_token_ids=(STOP,))
    for prompt, row in zip(prompts, together, strict=True):
        assert row.trace is not None and row.trace.token_ids[: len(prompt)] == tuple(prompt)
        assert row.trace.masked == tuple(range(len(prompt), len(prompt) + 10))
        assert min(place for commit in row.trace.commits for place in commit.positions) == len(prompt)
        assert MASK not in row.token_ids and (row.finish_reason == "stop" or len(row.token_ids) == 10)
        alone = generate(model, [prompt], options=settings, mask_token_id=MASK, stop_token_ids=(STOP,))[0]
        assert alone.token_ids == row.token_ids
    # what stands there is seen: another token in its place is answered otherwise
    other = generate(model, [[2, STOP, 1, PAD, 2]], options=settings, mask_token_id=MASK)[0]
    assert other.trace is not None and together[0].trace is not None
    assert other.trace.commits[0].confidences != together[0].trace.commits[0].confidences


def test_07_a_threshold_is_met_in_float32_whatever_the_logits_are() -> None:
    # 0.9489 and 0.9511 round to the same bfloat16 probability, as do 0.9985 and 0.9995
    share = torch.tensor([0.5, 0.9489, 0.9511, 0.9985, 0.9995])
    model = Scripted([1] * 5, [0.0] * 5, vocab_size=3)
    model.table_LV = torch.stack([(1 - share).log(), share.log(), torch.zeros(5)], 1)
    assert share.bfloat16()[1] == share.bfloat16()[2] and share.bfloat16()[3] == share.bfloat16()[4]
    given = {"max_new_tokens": 4, "block_size": 4, "steps": 4}
    chosen = {}
    for name, more in (("confidence", {}), ("threshold", {"threshold": 0.95})):
        run = stream(model, [[0]], options=GenerationOptions.of(strategy=name, **given, **more), mask_token_id=2)
        chosen[name] = [commit.positions for commit in run]
    assert chosen == {"confidence": [(4,), (3,), (2,), (1,)], "threshold": [(2, 3, 4), (1,)]}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_10_end_tokens_can_be_made_to_wait_when_tokens_are_sampled_too(temperature: float) -> None:
    model = Scripted([1, 10, 11, STOP, STOP, STOP, STOP], [0.0, 8.0, 8.0, 12.0, 12.0, 12.0, 12.0])
    settings = options(
        max_new_tokens=6, block_size=6, steps_per_block=6, temperature=temperature, begin_suppress_tokens=(STOP,)
    )
    for seed in range(20):
        run = stream(model, [[1]], options=settings, mask_token_id=15, seeds=[seed])
        order = [token == STOP for commit in run for token in commit.token_ids]
        assert len(order) == 6 and order == sorted(order)


@ways
def test_11_text_before_an_end_is_the_text_without_stopping(
    kind: str, attention: str, cache_name: str, folder: Path
) -> None:
    model, stops = model_in(folder, kind), tuple(range(0, 60, 9))
    prompts = [[place, 3 * place, 5] for place in range(1, 9)]
    early, whole = (
        generate(
            model,
            prompts,
            options=options(attention=attention, cache=cache_name, early_stop=is_early, temperature=1.0),
            mask_token_id=MASK,
            stop_token_ids=stops,
        )
        for is_early in (True, False)
    )
    assert "stop" in {row.finish_reason for row in early}
    for stopped, full in zip(early, whole, strict=True):
        ends = [place for place, token in enumerate(full.token_ids) if token in stops]
        assert len(full.token_ids) == 10 and stopped.token_ids == full.token_ids[: ends[0] if ends else None]
        assert stopped.stats.forwards.total <= full.stats.forwards.total


@ways
def test_13_a_run_leaves_nothing_behind_even_if_it_is_left(
    kind: str, attention: str, cache_name: str, folder: Path
) -> None:
    model = model_in(folder, kind)
    # strategies that remember, one for each way in turn
    strategy = ("klass", "slow_fast", "edit")[WAYS.index((kind, attention, cache_name)) % 3]
    more = {"strategy": strategy, "threshold": 0.4, "temperature": 1.0, "max_post_steps": 2, "max_new_tokens": 7}
    settings = options(attention=attention, cache=cache_name, **more)
    ask = lambda: generate(model, [[1, 2, 3], [4]], options=settings, mask_token_id=MASK)  # noqa: E731
    first = ask()
    generate(model, [[9] * 6, [8], [7, 7]], options=settings, mask_token_id=MASK)
    assert ask() == first
    steps = iter(stream(model, [[9] * 6, [8]], options=settings, mask_token_id=MASK))
    next(steps), next(steps)
    assert ask() == first
    # the one that was left goes on as if nothing had been asked in between
    rest = [commit for commit in steps]
    whole = list(stream(model, [[9] * 6, [8]], options=settings, mask_token_id=MASK))
    assert rest == whole[2:]


@torch.no_grad()
def test_14_the_first_position_of_a_block_is_predicted_by_the_last_of_the_one_before(folder: Path) -> None:
    model, prompt = model_in(folder, "dream"), [1, 2, 3, 4, 5, 6, 7, 8]
    settings = options(attention="block_causal", cache="block", max_new_tokens=8, trace=True)
    (done,) = generate(model, [prompt], options=settings, mask_token_id=MASK)
    assert done.trace is not None
    for block in (0, 1):
        # what the blocks up to this one look like where it begins: the text, then masks
        text = prompt + done.token_ids[: 4 * block]
        canvas = torch.tensor([text + [MASK] * 4])
        spec_BL = torch.arange(len(text) + 4)[None] // 4
        logits = model(canvas, attention=AttentionSpec("block_causal", packed=False, block_BL=spec_BL)).logits
        logits[..., MASK] = -torch.inf
        best = logits.softmax(-1)[0, len(text) :].max(-1)
        commit = next(commit for commit in done.trace.commits if commit.block == block)
        assert commit.positions == (len(text) + int(best.values.argmax()),)
        assert commit.confidences == pytest.approx([float(best.values.max())], abs=1e-12)


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("over", range(4))
def test_15_a_prompt_may_end_anywhere_in_a_block(blocks: int, over: int, folder: Path) -> None:
    model, length = model_in(folder, "llada2"), 4 * blocks + over
    # its last tokens, which share a block with the answer, are stop tokens
    prompt = [20 + place for place in range(length - 2)] + [STOP] * min(length, 2)
    settings = options(attention="block_causal", cache="block", trace=True)
    (done,) = generate(model, [prompt], options=settings, mask_token_id=MASK, stop_token_ids=(STOP,))
    assert done.trace is not None and done.trace.token_ids[:length] == tuple(prompt)
    written = sorted(place for commit in done.trace.commits for place in commit.positions)
    assert written[0] == length and len(set(written)) == len(written)
    assert done.stats.emitted == len(done.token_ids) and (done.token_ids or written)
    assert done.finish_reason == "stop" or written == list(range(length, length + 10))
    assert {commit.block for commit in done.trace.commits} == {place // 4 - blocks for place in written}
    without = generate(
        model,
        [prompt],
        options=options(attention="block_causal", cache="none"),
        mask_token_id=MASK,
        stop_token_ids=[STOP],
    )
    assert texts(without) == texts([done])


@ways
@pytest.mark.parametrize("strategy", ["threshold", "edit"])
def test_19_a_grammar_judges_a_canvas_as_a_whole(
    kind: str, attention: str, cache_name: str, strategy: str, folder: Path
) -> None:
    # brackets that open and close, at most two deep: (), (()), ()(), ...; each position alone may hold either
    opens, closes, length = 1, 2, 8
    table = torch.tensor([[1, -1, -1], [2, 0, -1], [-1, 1, -1]])
    class_V = torch.full((model_in(folder, kind).facts.shape.vocab_size,), 2)
    class_V[opens], class_V[closes] = 0, 1
    grammar = Automaton(table, class_V, (0,))

    def depths(text: Sequence[int]) -> list[int]:
        return list(itertools.accumulate(1 if token == opens else -1 for token in text))

    texts = [text for size in range(0, length + 1, 2) for text in itertools.product((opens, closes), repeat=size)]
    texts = [text for text in texts if not text or (set(depths(text)) <= {0, 1, 2} and depths(text)[-1] == 0)]
    fills = [(*text, *[STOP] * (length - len(text))) for text in texts]
    # all that is possible is written at once
    settings = options(attention=attention, cache=cache_name, strategy=strategy, threshold=0.0, max_new_tokens=length)
    rows = [Waiting([3 + seed] * (seed % 6), seed, None, grammar) for seed in range(12)]
    run = stream_rows(model_in(folder, kind), rows, options=settings, mask_token_id=MASK, stop_token_ids=(STOP,))
    for commit in run:
        place = run.canvas.rows.index(commit.row)
        start = len(rows[commit.row].token_ids)
        tokens, masked = (
            tensor[place, start : start + length].tolist() for tensor in (run.canvas.tokens_BL, run.canvas.is_masked_BL)
        )
        canvas = [None if is_masked else token for token, is_masked in zip(tokens, masked, strict=True)]
        assert any(all(a in (None, b) for a, b in zip(canvas, fill, strict=True)) for fill in fills), canvas
    done = run.completions()
    assert {tuple(row.token_ids) for row in done} <= set(texts) and len({tuple(row.token_ids) for row in done}) > 1


@ways
def test_20_a_row_without_a_prompt_beside_long_ones_is_no_row_of_nan(
    kind: str, attention: str, cache_name: str, folder: Path
) -> None:
    model, prompts = model_in(folder, kind), [[], [1] * 17, []]
    settings = options(attention=attention, cache=cache_name, max_new_tokens=3, guidance_scale=0.5)
    together = generate(model, prompts, options=settings, mask_token_id=MASK)
    assert together[0].token_ids == generate(model, [[]], options=settings, mask_token_id=MASK)[0].token_ids
    with torch.no_grad():
        ids = torch.tensor([[1, 2, 3], [PAD] * 3])
        logits = model(ids, torch.tensor([[1, 1, 1], [0, 0, 0]])).logits
    assert logits.isfinite().all()
    assert (logits[0] - model(ids[:1]).logits[0]).abs().max() < 1e-10
