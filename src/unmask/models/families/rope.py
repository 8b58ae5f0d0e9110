"""How configurations in transformers' way say how rotary positions turn, and how they are slowed down for long texts.

Version 4 wrote `rope_theta` and `rope_scaling`, version 5 writes `rope_parameters`. What a file leaves out is what
version 5 takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from unmask.models.rotary import RopeScaling

_LENGTH = "original_max_position_embeddings"
# kind -> the keys that it needs, and those that a file may leave out
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (("factor", "high_freq_factor", "low_freq_factor", _LENGTH), ()),
    "yarn": (
        ("factor",),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", _LENGTH),
    ),
    "longrope": (("long_factor", "short_factor"), ("attention_factor", "factor", _LENGTH)),
}
_ANY_KIND = ("rope_theta", "rope_type", "type")


def rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling.

    Raises:
        ValueError, TypeError: a kind or a key that is not known, or a value that makes no sense.
    """
    given = config["rope_parameters"] or config["rope_scaling"] or {}
    if not isinstance(given, Mapping):
        raise TypeError(f"rope_parameters or rope_scaling is a {type(given).__name__}")
    theta, kind = given.get("rope_theta", config["rope_theta"]), given.get("rope_type", given.get("type", "default"))
    if kind not in _KINDS:
        raise ValueError(f'rope_type "{kind}" is not supported; supported: {", ".join(_KINDS)}')
    needed, others = _KINDS[kind]
    for key in given:
        if key not in (*needed, *others, *_ANY_KIND):
            raise ValueError(f'the rotary setting "{key}" is not known for {kind} and might change the model')
    if not theta > (1 if kind == "yarn" else 0):
        raise ValueError(f"rope_theta is {theta}; it must be above {1 if kind == 'yarn' else 0}")
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"the rotary scaling {kind} lacks {', '.join(missing)}")
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", _number(given, "factor"))
    read = {"llama3": _llama3, "yarn": _yarn, "longrope": _longrope}[kind]
    return theta, read(given, config)


def _number(given: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number above 0; a file may say null where there is a default."""
    value = given.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"the rotary {key} is {value!r}; it must be a number above 0")
    return value


def _llama3(given: Mapping[str, Any], config: Mapping[str, Any]) -> RopeScaling:
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    if not 0 < low < high:
        raise ValueError(f"low_freq_factor is {low} and high_freq_factor {high}; the first must be the smaller")
    return RopeScaling("llama3", _number(given, "factor"), low, high, _length(given, config))


def _yarn(given: Mapping[str, Any], config: Mapping[str, Any]) -> RopeScaling:
    length, whole = _length(given, config), given.get("truncate", True)
    if not isinstance(whole, bool):
        raise ValueError(f"the rotary truncate is {whole!r}; it must be true or false")
    factor = _number(given, "factor", config["max_position_embeddings"] / length)
    # arXiv 2309.00071, section 3.4; the two further settings are DeepSeek's
    amplitude = _by_factor(factor, 1.0)
    if given.get("mscale") and given.get("mscale_all_dim"):
        amplitude = _by_factor(factor, _number(given, "mscale")) / _by_factor(factor, _number(given, "mscale_all_dim"))
    low, high = _number(given, "beta_slow", 1.0), _number(given, "beta_fast", 32.0)
    if not low < high:
        raise ValueError(f"beta_slow is {low} and beta_fast {high}; the first must be the smaller")
    return RopeScaling("yarn", factor, low, high, length, whole, _number(given, "attention_factor", amplitude))


def _by_factor(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _longrope(given: Mapping[str, Any], config: Mapping[str, Any]) -> RopeScaling:
    length = _length(given, config)
    factor = _number(given, "factor", config["max_position_embeddings"] / length)
    # arXiv 2402.13753, and the code published with Phi-3
    amplitude = math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 and length > 1 else 1.0
    return RopeScaling(
        "longrope",
        factor,
        original_length=length,
        amplitude=_number(given, "attention_factor", amplitude),
        short=_numbers(given, "short_factor"),
        long=_numbers(given, "long_factor"),
    )


def _numbers(given: Mapping[str, Any], key: str) -> tuple[float, ...]:
    if not isinstance(given[key], list):
        raise TypeError(f"the rotary {key} is a {type(given[key]).__name__}")
    return tuple(_number({key: value}, key) for value in given[key])


def _length(given: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Of the texts that the model was first trained on; Phi-3 says it beside the rotary settings, and that wins."""
    value = config.get(_LENGTH) or given.get(_LENGTH) or config["max_position_embeddings"]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{_LENGTH} is {value!r}; it must be a whole number of at least 1")
    return value
