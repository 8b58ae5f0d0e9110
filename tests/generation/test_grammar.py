from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from tests.generation.toys import Contextual, Scripted
from unmask.errors import ConfigError
from unmask.generation.automaton import ANY, Automaton
from unmask.generation.batching import continuous
from unmask.generation.grammar import Run, has_text_of, runs_of
from unmask.generation.loop import generate, stream_gaps, stream_rows
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Gaps, Waiting
from unmask.registry import STRATEGIES

# ids 0 to 3 are text, 4 and 5 end it, 6 is in no text, 7 is the mask
TEXT, STOPS, OTHER, MASK = (0, 1, 2, 3), (4, 5), 6, 7
VOCAB = 8


class Language:
    """A random automaton over the text ids, told by itself: no code of the package decides what it accepts."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        states = chance.randint(2, 5)
        self.next = {
            (state, token): chance.randrange(states)
            for state in range(states)
            for token in TEXT
            if chance.random() < 0.5
        }
        self.finals = {state for state in range(states) if chance.random() < 0.4} or {states - 1}
        table = torch.full((states, len(TEXT) + 1), -1)
        for (state, token), after in self.next.items():
            table[state, token] = after
        self.automaton = Automaton(table, torch.tensor([*TEXT, 4, 4, 4, 4]), tuple(self.finals))

    def has(self, tokens: Sequence[int]) -> bool:
        state: int | None = 0
        for token in tokens:
            state = self.next.get((state, token)) if state is not None else None
        return state in self.finals

    def fills(self, length: int, *, stops: Sequence[int] = STOPS, least: int = 0) -> list[tuple[int, ...]]:
        """Everything that a canvas of masks may become: a text, then stop tokens, none among the first `least`."""
        found = []
        for size in range(length + 1):
            if size < length and size < least:
                continue
            texts = [text for text in itertools.product(TEXT, repeat=size) if self.has(text)]
            found += [text + end for text in texts for end in itertools.product(stops, repeat=length - size)]
        return found


def languages(count: int, least: int = 1) -> Iterator[Language]:
    """Those that have texts of at most four tokens, and several of them."""
    made = (Language(seed) for seed in itertools.count())
    return itertools.islice((one for one in made if len(one.fills(4, stops=STOPS[:1])) > least), count)


def check(canvas: Sequence[int], fills: Sequence[tuple[int, ...]], run: Run) -> None:
    fitting = [fill for fill in fills if all(a in (ANY, b) for a, b in zip(canvas, fill, strict=True))]
    run.tokens = list(canvas)
    assert run.is_possible() == bool(fitting), canvas
    before, after = run.sides()
    for place, token in enumerate(canvas):
        # at filled positions, what else could stand there
        around = [
            fill
            for fill in fills
            if all(p == place or a in (ANY, b) for p, (a, b) in enumerate(zip(canvas, fill, strict=True)))
        ]
        found = run.paths.allowed(before[place], after[place], torch.device("cpu"), may_stop=place >= run.least)
        wanted = {fill[place] for fill in (fitting if token == ANY else around)}
        assert set(found.token_V.nonzero()[:, 0].tolist()) == wanted, (canvas, place)
        has_choice = len(wanted) > 1 and wanted != set(STOPS)
        assert found.forced in (wanted if wanted and not has_choice else {-1})


@pytest.mark.parametrize("least", [0, 2])
def test_a_token_is_allowed_where_some_completion_has_it_and_only_there(least: int) -> None:
    for language in languages(4):
        paths = language.automaton.paths(STOPS, (MASK,))
        for length in (1, 2, 3):
            fills = language.fills(length, least=least)
            for canvas in itertools.product((ANY, *TEXT, STOPS[0], OTHER), repeat=length):
                check(canvas, fills, Run(0, [], paths, least))
        chance, fills = random.Random(0), language.fills(5, least=least)
        for _ in range(60):
            text = chance.choice(fills) if fills and chance.random() < 0.7 else chance.choices((*TEXT, *STOPS), k=5)
            canvas = [token if chance.random() < 0.4 else ANY for token in text]
            check(canvas, fills, Run(0, [], paths, least))


def test_suppressed_tokens_are_no_way_through() -> None:
    for language in languages(10):
        paths = language.automaton.paths((), (0, 3, MASK))
        for length in range(1, 5):
            fills = [fill for fill in language.fills(length, stops=()) if not {0, 3} & set(fill)]
            check([ANY] * length, fills, Run(0, [], paths))
            assert has_text_of(language.automaton, [length], (0, 3, MASK)) == bool(fills)
        lengths = [n for n in range(6) for text in itertools.product((1, 2), repeat=n) if language.has(text)]
        assert not lengths or paths.shortest() == min(lengths)


def options(strategy: str = "confidence", **changes: Any) -> GenerationOptions:
    given = {"max_new_tokens": 6, "block_size": 4, "steps_per_block": 4, **changes}
    return GenerationOptions.of(strategy=strategy, **given)


def waiting(languages: Sequence[Language | None], prompts: Sequence[Sequence[int]]) -> list[Waiting]:
    return [
        Waiting(prompt, seed, None, None if one is None else one.automaton)
        for seed, (one, prompt) in enumerate(zip(languages, prompts, strict=True))
    ]


WORLD: dict[str, Any] = {"mask_token_id": MASK, "stop_token_ids": STOPS}


@pytest.mark.parametrize("name", STRATEGIES.names())
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_every_strategy_stays_in_the_language(name: str, temperature: float) -> None:
    # bold settings, under which many tokens are chosen together
    bold = {"threshold": 0.2, "factor": 8.0, "entropy_bound": 3.0, "verify_threshold": 0.6, "steps_per_block": 2}
    chosen: list[Language | None] = [*languages(6), None]
    rows = waiting(chosen, [[number % 4] * (number % 3) for number in range(len(chosen))])
    settings = options(name, temperature=temperature, **bold)
    run = stream_rows(Contextual(VOCAB), rows, options=settings, **WORLD)
    for commit in run:
        language, start = chosen[commit.row], len(rows[commit.row].token_ids)
        if language is None:
            continue
        row = run.canvas.rows.index(commit.row)
        hidden, tokens = run.canvas.is_masked_BL[row].tolist(), run.canvas.tokens_BL[row].tolist()
        canvas = [ANY if hide else token for hide, token in zip(hidden, tokens, strict=True)][start : start + 6]
        assert any(all(a in (ANY, b) for a, b in zip(canvas, fill, strict=True)) for fill in language.fills(6)), canvas
    done = run.completions()
    assert all(language is None or language.has(row.token_ids) for language, row in zip(chosen, done, strict=True))
    # a row is what it is alone, and so it is where rows come and go
    alone = stream_rows(Contextual(VOCAB), rows[3:4], options=settings, **WORLD).run()[0]
    assert alone.token_ids == done[3].token_ids
    batched = dict(continuous(Contextual(VOCAB), rows, options=settings, batch_size=2, **WORLD))
    assert [batched[number].token_ids for number in range(len(rows))] == [row.token_ids for row in done]


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_a_language_of_everything_changes_nothing(name: str) -> None:
    everything = Automaton(torch.tensor([[0, -1]]), torch.tensor([0] * 7 + [1]), (0,))
    prompts = [[1, 2, 3], [], [5]]
    for temperature in (0.0, 1.0):
        settings = options(name, temperature=temperature, threshold=0.3)
        rows = [Waiting(prompt, seed, None, everything) for seed, prompt in enumerate(prompts)]
        kept = stream_rows(Contextual(VOCAB), rows, options=settings, mask_token_id=MASK).run()
        free = generate(Contextual(VOCAB), prompts, options=settings, mask_token_id=MASK)
        assert kept == free


def language_of(*texts: Sequence[int]) -> Automaton:
    """Of a few texts, as a tree."""
    number: dict[tuple[int, ...], int] = {(): 0}
    for text in texts:
        for end in range(1, len(text) + 1):
            number.setdefault(tuple(text[:end]), len(number))
    table = torch.full((len(number), VOCAB), -1)
    for prefix, state in number.items():
        if prefix:
            table[number[prefix[:-1]], prefix[-1]] = state
    return Automaton(table, torch.arange(VOCAB), tuple(number[tuple(text)] for text in texts))


@pytest.mark.parametrize(("strength", "text"), [([5.0, 4.0], [0, 1]), ([4.0, 5.0], [2, 3])])
def test_of_tokens_that_exclude_each_other_the_surest_is_written(strength: list[float], text: list[int]) -> None:
    # position 0 wants 0, position 1 wants 3; 01 and 23 are texts
    model, bold = Scripted([0, 3], strength, VOCAB), options("threshold", threshold=0.1, max_new_tokens=2)
    row = Waiting([], 0, None, language_of([0, 1], [2, 3]))
    run = stream_rows(model, [row], options=bold, mask_token_id=MASK)
    commits = [commit.positions for commit in run]
    assert run.completions()[0].token_ids == text
    assert commits == [((0,) if text == [0, 1] else (1,)), ((1,) if text == [0, 1] else (0,))]


def test_what_leaves_no_choice_is_written_at_once() -> None:
    row = Waiting([], 0, None, language_of([1, 0, 2, 3], [2, 0, 2, 3]))
    settings = options(max_new_tokens=16, block_size=16, steps_per_block=16)
    run = stream_rows(Scripted([1] * 16, [1.0] * 16, VOCAB), [row], options=settings, **WORLD)
    (commit,) = run
    (done,) = run.completions()
    # one position has a choice, all others, stop tokens among them, have none
    assert commit.positions == tuple(range(16)) and done.stats.forwards.total == 1
    assert done.token_ids == [1, 0, 2, 3] and done.finish_reason == "stop"


def test_stop_tokens_that_are_to_come_last_may_be_all_that_is_left() -> None:
    row = Waiting([], 0, None, language_of([1], [2]))
    settings = options(begin_suppress_tokens=STOPS)
    commits = list(stream_rows(Contextual(VOCAB), [row], options=settings, **WORLD))
    assert commits[0].positions == (0,)
    assert stream_rows(Contextual(VOCAB), [row], options=settings, **WORLD).run()[0].finish_reason == "stop"


def test_each_stretch_of_blanks_is_a_text_of_its_own() -> None:
    rows = [[0, MASK, MASK, 3, MASK, 2], [MASK] * 4]
    blank = [[token == MASK for token in row] for row in rows]
    one = language_of([0], [1, 2], [3, 3], [2, 1, 0, 1])
    for name in ("confidence", "threshold", "revoke", "edit"):
        for block_size in (None, 2):
            settings = options(name, block_size=block_size, threshold=0.2, temperature=1.0)
            asked = [Gaps(row, here, 0, one) for row, here in zip(rows, blank, strict=True)]
            first, second = stream_gaps(Contextual(VOCAB), asked, options=settings, mask_token_id=MASK).run()
            assert first.token_ids[1:3] in ([1, 2], [3, 3]) and first.token_ids[4] == 0
            assert second.token_ids == [2, 1, 0, 1]


@pytest.mark.parametrize("name", ["confidence", "threshold", "random"])
def test_guessing_ahead_changes_no_text(name: str) -> None:
    for language in languages(5):
        rows = waiting([language], [[1, 2]])
        found = [
            stream_rows(Contextual(VOCAB), rows, options=options(name, speculate=guesses), **WORLD).run()[0]
            for guesses in (0, 3)
        ]
        assert found[0].token_ids == found[1].token_ids and language.has(found[0].token_ids)


def test_without_room_for_a_text_nothing_begins() -> None:
    model, long = Contextual(VOCAB), language_of([1, 2, 3, 1])
    for asked, changes, message in (
        (long, {"max_new_tokens": 3}, "shortest text of the grammar has 4 tokens, and there is room for 3"),
        (long, {"min_new_tokens": 5}, "no text of the grammar has at least 5 and at most 6 tokens"),
        (long, {"suppress_tokens": (2,)}, "no text of the grammar can be written with the tokens that are left"),
    ):
        with pytest.raises(ConfigError, match=message):
            stream_rows(model, [Waiting([], 0, None, asked)], options=options(**changes), **WORLD)
    gaps = [Gaps([1, MASK, MASK], [False, True, True], 0, long)]
    with pytest.raises(ConfigError, match="no text of the grammar has exactly 2 tokens.*position 1.*has 4"):
        stream_gaps(model, gaps, options=options(), mask_token_id=MASK)
    assert not model.shapes


def test_what_says_otherwise_where_an_answer_ends_is_refused() -> None:
    for changes, name in (
        ({"stop": ("x",)}, "stop"),
        ({"open_length": True}, "open_length"),
        ({"early_stop": False}, "early"),
    ):
        with pytest.raises(ConfigError, match=f"says where an answer ends, and {name}"):
            options(regex="a", **changes)
    with pytest.raises(ConfigError, match="regex and json_schema are both given"):
        options(regex="a", json_schema="{}")
    with pytest.raises(ConfigError, match="json_schema is 3; it must be a text"):
        options(json_schema=3)
    with pytest.raises(ConfigError, match="token ids alone are not"):
        generate(Contextual(VOCAB), [[1]], options=options(regex="a"), mask_token_id=MASK)
    assert options(json_schema={"type": "null"}).json_schema == '{"type": "null"}'


def test_runs_are_neighbours() -> None:
    assert runs_of([]) == [] and runs_of([3, 4, 5, 8, 10, 11]) == [(3, 3), (8, 1), (10, 2)]
