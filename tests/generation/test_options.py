from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
from jaxtyping import config

from unmask.errors import ConfigError
from unmask.generation.options import NUMBERS, WHOLE_NUMBERS, GenerationOptions
from unmask.registry import STRATEGIES


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Users have no type checks at run time: let wrong types through to our own messages."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "phrase"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be a whole number, at least 1"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"steps": -3}, "steps is -3"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps_per_block": 0}, "steps_per_block is 0"),
        ({"block_size": 0}, "block_size is 0"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be a finite number, at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
        ({"threshold": 1.5}, "threshold is 1.5; it must be a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"factor": -1}, "factor is -1; it must be a finite number, at least 0"),
        ({"entropy_bound": "a"}, "entropy_bound is 'a'"),
        ({"kl_history": 0}, "kl_history is 0; it must be a whole number, at least 1"),
        ({"leap_radius": -1}, "leap_radius is -1; it must be a whole number, at least 0"),
        ({"max_post_steps": 1.5}, "max_post_steps is 1.5"),
        ({"verify_threshold": 2}, "verify_threshold is 2; it must be a number from 0 to 1"),
        ({"score_temperature": -1.0}, "score_temperature is -1.0"),
        ({"top_k": 0}, "top_k is 0; it must be a whole number, at least 1"),
        ({"top_p": 0.0}, "top_p is 0, which leaves no token; it must be above 0 and at most 1"),
        ({"top_p": 1.2}, "top_p is 1.2; it must be a number from 0 to 1"),
        ({"score": "entropie"}, 'score is "entropie"; it can be confidence, margin, entropy, random'),
        ({"commit_at_least": "two"}, 'commit_at_least is "two"; it can be one, quota'),
        ({"reveal": "evn"}, "it can be even, rounded, truncated"),
        ({"attention": "causal"}, 'attention is "causal"; it can be auto, bidirectional, block_causal'),
        ({"strategy": "confidense"}, 'Did you mean "confidence"?'),
        ({"cache": "non"}, 'Did you mean "none"?'),
        ({"cache": "aut"}, 'cache "aut" is not one of auto, block, '),
        ({"noise_schedule": "cosin"}, 'Did you mean "cosine"?'),
        ({"suppress_tokens": [1, -1]}, "suppress_tokens has -1; it is a list of token ids"),
        ({"guidance_keep": ["a"]}, "guidance_keep has 'a'"),
        ({"suppress_tokens": None}, "suppress_tokens has None; it is a list of token ids"),
        ({"stop": 5}, "stop has 5; it is a text, or a list of texts"),
        ({"stop": None}, "stop has None"),
        ({"seed": "3"}, "seed is '3'; it must be a whole number"),
        ({"seed": None}, "seed is None"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": True}, "seed is True"),
        ({"early_stop": "no"}, "early_stop is 'no'; it must be true or false"),
        ({"trace": 1}, "trace is 1; it must be true or false"),
        ({"strategy": None}, 'strategy "None" is not one of'),
        ({"cache": None}, 'cache "None" is not one of auto, '),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(setting: dict, phrase: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GenerationOptions(**setting)
    assert phrase in str(caught.value)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match='"temprature" is no option of generation. Did you mean "temperature"?'):
        GenerationOptions.of(temprature=0.5)


def test_defaults_are_the_documented_ones() -> None:
    options = GenerationOptions()
    shown = (options.max_new_tokens, options.block_size, options.steps, options.strategy, options.reveal)
    assert shown == (128, 32, 128, "confidence", "even")
    assert (options.temperature, options.guidance_scale, options.cache, options.seed) == (0.0, 0.0, "auto", 0)


def test_lists_of_ids_become_hashable() -> None:
    options = GenerationOptions.of(suppress_tokens=[3, 4])
    assert options.suppress_tokens == (3, 4)
    hash(options)


def test_dream_brings_its_schedule_unless_another_is_asked_for() -> None:
    assert GenerationOptions(strategy="dream").reveal == "truncated"
    assert replace(GenerationOptions(), strategy="dream").reveal == "truncated"
    assert GenerationOptions(strategy="dream", reveal="rounded").reveal == "rounded"
    assert GenerationOptions(strategy="entropy").reveal == "even"


def test_every_knob_of_a_strategy_is_an_option_and_every_such_option_is_some_strategy_s() -> None:
    claimed = {knob for name in STRATEGIES.names() for knob in STRATEGIES.get(name).knobs.split(", ")}
    options = {entry.name for entry in fields(GenerationOptions)}
    assert claimed <= options
    of_sampling = {"temperature", "guidance_scale", "top_k"}
    of_caches = {name for name in (*NUMBERS, *WHOLE_NUMBERS) if name.startswith("cache_")} | {"speculate"}
    of_lengths = {"initial_length", "lengthen_by", "end_window"} | of_sampling | of_caches
    of_lengths |= {"end_threshold", "insert_end_threshold", "insert_threshold"}
    assert claimed == {*NUMBERS, *WHOLE_NUMBERS, "reveal", "score", "commit_at_least"} - of_lengths
