"""How a model that was made for one pattern of attention has to be decoded. Knows no text."""

from __future__ import annotations

from dataclasses import replace

from unmask.errors import ConfigError
from unmask.generation.options import GenerationOptions
from unmask.models.facts import Facts
from unmask.registry import STRATEGIES


def as_made(options: GenerationOptions, facts: Facts) -> GenerationOptions:
    """The options, with `attention` as the model was made for it where they do not say.

    An autoregressive model is always decoded from left to right, a token at each step: as blocks of one token that see
    what is before them.

    Raises:
        ConfigError: guidance of an autoregressive model, which cannot be shown its prompt masked; a strategy that hides
            tokens one by one, where a token is predicted by the position before it; an unknown id in `guidance_keep`.
    """
    if max(options.guidance_keep, default=0) >= facts.shape.vocab_size:
        raise ConfigError(
            f"guidance_keep has the token id {max(options.guidance_keep)}, which is unknown; the model knows ids 0 to "
            f"{facts.shape.vocab_size - 1}."
        )
    if facts.family.shift and getattr(STRATEGIES.get(options.strategy), "verifies", False):
        raise ConfigError(
            f'Strategy "{options.strategy}" hides tokens one by one and asks what stands there; a {facts.family.name} '
            "model predicts each token at the position before it, where nothing is hidden. Use another strategy."
        )
    if facts.attention == "causal":
        if options.guidance_scale > 0:
            raise ConfigError("guidance_scale is for diffusion models; this one is autoregressive and has no masks.")
        return replace(options, attention="block_causal", block_size=1, steps_per_block=1)
    if options.attention != "auto":
        return options
    return replace(options, attention="block_causal" if facts.attention == "block_causal" else "bidirectional")


def own_blocks(options: GenerationOptions, facts: Facts) -> GenerationOptions:
    """The options with blocks as long as the model was made for; for where the user gave no size."""
    return options if facts.block_size is None else replace(options, block_size=facts.block_size)


def refuse_infilling(facts: Facts) -> None:
    """Raises ConfigError: an autoregressive model cannot fill in, as it does not see what follows."""
    if facts.attention == "causal":
        raise ConfigError(
            "this model is autoregressive: it writes from left to right and does not see what follows a blank. Fill in "
            "with a diffusion model; `unmask convert` makes one of it."
        )
