"""Answers that grow: the rule against a plain reading of it, rows by themselves, and what cannot go together."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tests.generation.toys import Contextual, Scripted
from unmask.errors import ConfigError
from unmask.generation.batching import continuous
from unmask.generation.loop import generate, infill, stream
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Waiting
from unmask.generation.trace import Completion

MASK, STOP = 15, 3


class Doubtful(Contextual):
    """Less sure of itself, and fonder of stop tokens, so that all parts of the rule come up."""

    def logits_BLV(self, tokens_BL: torch.Tensor, is_valid_BL: torch.Tensor) -> torch.Tensor:
        logits_BLV = super().logits_BLV(tokens_BL, is_valid_BL) * 0.05
        logits_BLV[..., STOP] += 0.06 * torch.arange(tokens_BL.shape[1])
        return logits_BLV


def decode(model: Any, prompts: list[list[int]], **settings: Any) -> list[Completion]:
    options = GenerationOptions(**{"open_length": True, "strategy": "threshold", "precise_sampling": True, **settings})
    return generate(model, prompts, options=options, mask_token_id=MASK, stop_token_ids=(STOP,))


class ByHand:
    """The method for one row, as plain lists."""

    def __init__(self, model: Contextual, prompt: list[int], knobs: dict[str, Any]) -> None:
        self.model, self.text, self.knobs = model, len(prompt), knobs
        first = max(knobs["initial_length"], knobs["min_new_tokens"])
        self.row = prompt + [MASK] * min(first, knobs["max_new_tokens"])
        self.looks, self.inserted = 0, 0

    def predictions(self) -> list[tuple[float, int]]:
        """At each column the best token that may be written, and its probability."""
        self.looks += 1
        row = torch.tensor([self.row])
        logits_LV = self.model.logits_BLV(row, torch.ones_like(row, dtype=torch.bool))[0].clone()
        logits_LV[:, MASK] = -torch.inf
        return [(float(p.max()), int(p.argmax())) for p in logits_LV.softmax(-1)]

    def certainty(self, found: list[tuple[float, int]]) -> float:
        sure, places = 0.0, list(range(self.text, len(self.row)))[-self.knobs["end_window"] :]
        for place in places:
            chance, token = found[place] if self.row[place] == MASK else (1.0, self.row[place])
            sure += chance if token == STOP and place >= self.text + self.knobs["min_new_tokens"] else 0.0
        return sure / self.knobs["end_window"]

    def room(self) -> int:
        return self.text + self.knobs["max_new_tokens"] - len(self.row)

    def allowed(self, found: list[tuple[float, int]], place: int) -> tuple[float, int]:
        """What may be written at a place: no stop token among the first ones."""
        if place >= self.text + self.knobs["min_new_tokens"]:
            return found[place]
        row = torch.tensor([self.row])
        logits_V = self.model.logits_BLV(row, torch.ones_like(row, dtype=torch.bool))[0, place].clone()
        logits_V[[MASK, STOP]] = -torch.inf
        p = logits_V.softmax(-1)
        return float(p.max()), int(p.argmax())

    def run(self) -> list[int]:
        found = self.predictions()
        while self.certainty(found) < self.knobs["end_threshold"] and self.room() > 0:
            self.row += [MASK] * min(self.knobs["lengthen_by"], self.room())
            found = self.predictions()
        while not self.step(found):
            found = self.predictions()
        answer = self.row[self.text :]
        return answer[: answer.index(STOP)] if STOP in answer else answer

    def step(self, found: list[tuple[float, int]]) -> bool:
        width = self.knobs["block_size"]
        start = self.text + (self.row.index(MASK, self.text) - self.text) // width * width
        masks = [p for p in range(start, min(start + width, len(self.row))) if self.row[p] == MASK]
        chances = {place: self.allowed(found, place) for place in masks}
        sure, certainty = [p for p in masks if chances[p][0] >= self.knobs["threshold"]], self.certainty(found)
        sure = sure or [max(masks, key=lambda place: (chances[place][0], -place))]
        for place in sure:
            self.row[place] = chances[place][1]
        until = self.row[self.text :]
        until = until[: until.index(MASK)] if MASK in until else until
        if STOP in until or MASK not in self.row[self.text :]:
            return True
        left = [p for p in masks if p not in sure and chances[p][0] < self.knobs["insert_threshold"]]
        if left and certainty < self.knobs["insert_end_threshold"] and self.room() > 0:
            place = min(left, key=lambda p: (chances[p][0], p))
            self.row[place:place] = [MASK] * min(self.knobs["lengthen_by"] - 1, self.room())
            self.inserted += 1
        return False


def knobs_of(draw: random.Random) -> dict[str, Any]:
    return {
        "max_new_tokens": draw.choice([9, 24, 40]),
        "min_new_tokens": draw.choice([0, 0, 5]),
        "block_size": draw.choice([4, 7, 40]),
        "initial_length": draw.choice([4, 8]),
        "lengthen_by": draw.choice([2, 3, 8]),
        "end_window": draw.choice([3, 6]),
        "end_threshold": draw.choice([0.01, 0.05, 0.2]),
        "insert_end_threshold": draw.choice([0.1, 0.9, 0.9]),
        "insert_threshold": draw.choice([0.3, 0.6, 0.97]),
        "threshold": draw.choice([0.5, 0.9, 0.97]),
    }


@pytest.mark.parametrize("part", range(4))
def test_rows_grow_as_the_method_says(part: int) -> None:
    inserted = grown = ended = 0
    for seed in range(part, 60, 4):
        draw = random.Random(seed)
        model, knobs = Doubtful(seed=seed), knobs_of(draw)
        prompt = [draw.randrange(4, 14) for _ in range(draw.randrange(6))]
        hand = ByHand(model, prompt, knobs)
        (done,) = decode(model, [prompt], **knobs)
        assert (done.token_ids, done.stats.forwards.total) == (hand.run(), hand.looks), (seed, knobs)
        inserted, ended = inserted + hand.inserted, ended + (done.finish_reason == "stop")
        grown += len(hand.row) - len(prompt) > knobs["initial_length"]
    assert inserted > 5 and grown > 5 and ended > 0


def test_the_length_that_is_found_is_that_of_the_answer() -> None:
    script = [*[4, 5, 6, 7] * 5, *[STOP] * 40]
    settings = {"max_new_tokens": 50, "block_size": 8, "initial_length": 8, "lengthen_by": 4, "end_window": 6}
    (done,) = decode(Scripted(script, [9.0] * 60), [[]], **settings)
    assert done.token_ids == script[:20] and done.finish_reason == "stop"
    # 8, 12, 16, 20 are too short, at 24 four of six are ends; then three blocks, each sure at once
    assert done.stats.forwards.total == 4 + 3
    assert done.stats.positions == 8 + 12 + 16 + 20 + 3 * 24
    (short,) = decode(Scripted(script, [9.0] * 60), [[]], **{**settings, "max_new_tokens": 14})
    assert short.token_ids == script[:14] and short.finish_reason == "length"


@pytest.mark.parametrize("strategy", ["threshold", "klass", "credit", "random", "edit", "revoke"])
@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_a_row_of_a_ragged_batch_is_the_row_alone(strategy: str, guidance: float) -> None:
    prompts, seen = [[5, 6, 7], [8], [], [4, 9, 10, 11, 12]], set[int]()
    for seed in range(3):
        settings = {**knobs_of(random.Random(seed)), "strategy": strategy, "guidance_scale": guidance, "steps": 64}
        settings |= {"temperature": 0.7 * (seed % 2), "insert_threshold": 0.6, "end_threshold": 0.2}
        model = Doubtful(seed=seed)
        together = decode(model, prompts, **settings)
        seen |= {len(done.token_ids) for done in together}
        for number, prompt in enumerate(prompts):
            (alone,) = decode(model, [prompt], **settings, seed=number)
            assert (alone.token_ids, alone.stats.forwards) == (
                together[number].token_ids,
                together[number].stats.forwards,
            )
    assert len(seen) > 3


def test_prompts_that_come_one_after_the_other_get_the_same() -> None:
    prompts, settings = [[5, 6, 7], [8], [], [4, 9, 10, 11, 12]], knobs_of(random.Random(4))
    options = GenerationOptions(open_length=True, strategy="threshold", precise_sampling=True, **settings)
    together = decode(Doubtful(), prompts, **settings)
    rows = [Waiting(prompt, number) for number, prompt in enumerate(prompts)]
    found = dict(
        continuous(Doubtful(), rows, options=options, mask_token_id=MASK, stop_token_ids=(STOP,), batch_size=2)
    )
    assert [found[number].token_ids for number in range(4)] == [done.token_ids for done in together]


@pytest.mark.parametrize("seed", range(6))
def test_the_commits_tell_how_the_row_came_about_though_tokens_move(seed: int) -> None:
    knobs = knobs_of(random.Random(seed)) | {"insert_threshold": 1.0, "block_size": 7, "max_new_tokens": 24}
    options = GenerationOptions(
        open_length=True, strategy="threshold", precise_sampling=True, trace=True, early_stop=True, **knobs
    )
    run = stream(Doubtful(seed=seed), [[5, 6]], options=options, mask_token_id=MASK, stop_token_ids=(STOP,))
    commits = list(run)
    (done,), canvas = run.completions(), run.canvas
    assert done.trace is not None and list(done.trace.commits) == commits
    row = list(done.trace.token_ids)
    assert len(row) == canvas.ends[0] and done.trace.masked == tuple(range(2, len(row)))
    for commit in commits:
        for place in commit.remasked:
            row[place] = MASK
        for place, token in zip(commit.positions, commit.token_ids, strict=True):
            row[place] = token
    assert row == canvas.tokens_BL[0, : canvas.ends[0]].tolist()


def test_where_nothing_can_grow_it_is_as_without() -> None:
    settings = {"max_new_tokens": 12, "block_size": 5, "threshold": 0.6}
    (grown,), (plain,) = (decode(Contextual(), [[5]], **settings, open_length=is_open) for is_open in (True, False))
    assert (grown.token_ids, grown.stats) == (plain.token_ids, plain.stats)
    options = GenerationOptions(open_length=True, initial_length=2)
    (filled,) = infill(Contextual(), [[5, MASK, MASK, MASK, 6]], options=options, mask_token_id=MASK)
    assert len(filled.token_ids) == 5


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"attention": "block_causal"}, "open_length is for models in which everybody sees everybody"),
        ({"cache": "dual"}, 'open_length moves tokens, which cache "dual" cannot follow'),
        ({"speculate": 2}, "open_length and speculate 2 do not go together"),
        ({"suppress_tokens": [STOP]}, "no token ends it here"),
    ],
)
def test_what_does_not_go_together_is_said(settings: dict[str, Any], phrase: str) -> None:
    with pytest.raises(ConfigError, match=phrase):
        decode(Contextual(), [[5]], **settings)
    with pytest.raises(ConfigError, match="It needs early_stop"):
        generate(Contextual(), [[5]], options=GenerationOptions(open_length=True), mask_token_id=MASK)
