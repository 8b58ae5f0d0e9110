from __future__ import annotations

from collections.abc import Iterator

import pytest
from jaxtyping import config

from unmask.errors import ConfigError
from unmask.generation.options import GenerationOptions


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
        ({"reveal": "evn"}, "it can be even, rounded, truncated"),
        ({"attention": "causal"}, 'attention is "causal"; it can be auto, bidirectional, block_causal'),
        ({"strategy": "confidense"}, 'Did you mean "confidence"?'),
        ({"cache": "non"}, 'Did you mean "none"?'),
        ({"noise_schedule": "cosin"}, 'Did you mean "cosine"?'),
        ({"suppress_tokens": [1, -1]}, "suppress_tokens has -1; it is a list of token ids"),
        ({"guidance_keep": ["a"]}, "guidance_keep has 'a'"),
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
