"""Log-likelihoods of answers: pairs of prompt and target as ids, and the estimator that the model's kind asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from unmask.errors import ConfigError
from unmask.lm.prompts import Prompt, encode
from unmask.lm.working import at_work
from unmask.models.shell import DiffusionModel
from unmask.models.tokenizers import mask_token_id
from unmask.objectives.asking import Pair
from unmask.objectives.blockwise import BlockwiseEstimator
from unmask.objectives.estimators import LikelihoodEstimate, LikelihoodEstimator, causal_log_likelihoods
from unmask.objectives.greedy import GreedyWriting, are_greedy_causal
from unmask.objectives.settling import Contest, Settling

Target = str | Sequence[int]


def pair_ids(prompt: Prompt, target: Target, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of what follows it.

    Two texts are encoded as one; spaces at the end of the prompt count as the target's.

    Raises:
        ConfigError, DataError: as `encode`.
    """
    if not isinstance(target, str):
        return encode(prompt, tokenizer), encode(target, tokenizer)
    if not isinstance(prompt, str):
        return encode(prompt, tokenizer), list(tokenizer(target, add_special_tokens=False)["input_ids"])
    whole, start = encode(prompt + target, tokenizer), len(encode(prompt.rstrip(" "), tokenizer))
    return whole[:start], whole[start:]


@dataclass(frozen=True)
class Scoring:
    """How likelihoods are estimated.

    Attributes:
        samples, seed, batch_size, guidance_scale: see `DiffusionLM.log_likelihoods`.
        profiled: the estimates say where their nats lie.
    """

    samples: int
    seed: int
    batch_size: int
    guidance_scale: float = 0.0
    profiled: bool = False


def estimates(
    model: DiffusionModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    scoring: Scoring,
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[int, LikelihoodEstimate]]:
    """Index and estimate of each pair, as they are finished: see `DiffusionLM.log_likelihoods`.

    Where `numbers` are given, one per pair, each has masks of its own, and errors are independent.
    """
    is_causal = model.facts.attention == "causal"
    pairs = _begun(tokenizer, pairs) if is_causal else pairs
    _check_lengths(model, pairs)
    with at_work(model):
        if is_causal:
            if scoring.guidance_scale:
                raise ConfigError("guidance_scale is for diffusion models; this one is autoregressive, with no masks.")
            yield from causal_log_likelihoods(
                model,
                pairs,
                batch_size=scoring.batch_size,
                profiled=scoring.profiled,
                shares=_may_share(model),
                device=model.device,
            )
        else:
            how: LikelihoodEstimator | BlockwiseEstimator = LikelihoodEstimator(
                mask_token_id(tokenizer, model),
                scoring.samples,
                scoring.seed,
                scoring.batch_size,
                scoring.guidance_scale,
                own_masks=numbers is not None,
                profiled=scoring.profiled,
            )
            if model.facts.attention == "block_causal":
                how = BlockwiseEstimator(how, _block_size(model), halves=model.family.shift)
            yield from how.many(model, pairs, device=model.device, numbers=numbers)


def settled(
    model: DiffusionModel,
    tokenizer: PreTrainedTokenizerBase,
    contests: Sequence[Contest],
    scoring: Scoring,
    errors: float,
) -> Iterator[tuple[int, list[LikelihoodEstimate]]]:
    """Index and estimates of each contest, from as few samples as settle it: see `Settling`.

    Raises:
        ConfigError: the model is none that sees a whole row, or a pair is longer than it reads.
    """
    refuse_settling(model)
    _check_lengths(model, [pair for contest in contests for pair in contest.pairs])
    with at_work(model):
        how = LikelihoodEstimator(
            mask_token_id(tokenizer, model),
            scoring.samples,
            scoring.seed,
            scoring.batch_size,
            scoring.guidance_scale,
        )
        yield from Settling(how, errors).many(model, contests, device=model.device)


def refuse_settling(model: DiffusionModel) -> None:
    """Raises ConfigError: the model does not see a whole row."""
    how = {"causal": "is autoregressive, and its likelihoods are exact", "block_causal": "writes block by block"}
    if model.facts.attention in how:
        raise ConfigError(
            "settle is for models that see a whole row, whose likelihoods are estimated from noised copies of it; this "
            f"one {how[model.facts.attention]}. Leave settle out."
        )


def greedy_verdicts(
    model: DiffusionModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], scoring: Scoring
) -> Iterator[tuple[int, bool]]:
    """Index of each pair, and whether greedy decoding writes its target: see `GreedyWriting`.

    For models that see a whole row, and autoregressive ones.
    """
    with at_work(model):
        if model.facts.attention == "causal":
            whole = _begun(tokenizer, pairs)
            settings = {"mask_token_id": model.mask_token_id, "batch_size": scoring.batch_size}
            yield from are_greedy_causal(model, whole, **settings, shares=_may_share(model), device=model.device)
        else:
            how = GreedyWriting(mask_token_id(tokenizer, model), scoring.batch_size, scoring.guidance_scale)
            yield from how.many(model, pairs, device=model.device)


def _may_share(model: DiffusionModel) -> bool:
    """Whether keys are the same in a row that goes on: not where long rows have angles of their own."""
    scaling = model.facts.shape.rope_scaling
    return scaling is None or scaling.kind != "longrope"


def _begun(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, with what begins a text before a target that stands alone."""
    return [(prompt or [beginning(tokenizer)], target) for prompt, target in pairs]


def _block_size(model: DiffusionModel) -> int:
    if model.facts.block_size is None:
        raise ConfigError(
            "this model writes blocks from left to right, but does not say how long they are. Add block_size to its "
            "config.json."
        )
    return model.facts.block_size


def beginning(tokenizer: PreTrainedTokenizerBase) -> int:
    """What stands before a text, so that its first token is predicted too."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not isinstance(token, int):
        raise ConfigError(
            "this tokenizer has no token that begins or ends a text. Give a prompt of at least one token."
        )
    return token


def most_tokens(model: DiffusionModel, limit: int) -> int:
    """Tokens of prompt and target, where `limit` are fed: an autoregressive model is not fed the last one."""
    return limit + (model.facts.attention == "causal")


def _check_lengths(model: DiffusionModel, pairs: Sequence[Pair]) -> None:
    limit = most_tokens(model, model.facts.shape.max_length)
    for number, (prompt, target) in enumerate(pairs):
        if len(prompt) + len(target) > limit:
            raise ConfigError(
                f"pair {number} has {len(prompt) + len(target):,} tokens, prompt and target together; this model reads "
                f"at most {limit:,}. Shorten the prompt."
            )
