"""What a user may choose about generation, checked when it is made. Knows no tensor and no tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from unmask.errors import ConfigError, did_you_mean
from unmask.generation.checking import at_least, at_least_one, one_of, texts, token_ids, whole_number, within
from unmask.registry import CACHES, NOISE_SCHEDULES, STRATEGIES

Reveal = Literal["even", "rounded", "truncated"]
Score = Literal["confidence", "margin", "entropy", "random"]
Least = Literal["one", "quota"]
Attention = Literal["auto", "bidirectional", "block_causal"]
# far beyond any canvas; a table of the steps is made
MOST_STEPS = 100_000
# knobs of strategies and sampling: the least and the most that each may be
NUMBERS: dict[str, tuple[float, float | None]] = {
    "temperature": (0.0, None),
    "guidance_scale": (0.0, None),
    "score_temperature": (0.0, None),
    "threshold": (0.0, 1.0),
    "threshold_decay": (0.0, 1.0),
    "factor": (0.0, None),
    "entropy_bound": (0.0, None),
    "kl_threshold": (0.0, None),
    "span_threshold": (0.0, 1.0),
    "leap_threshold": (0.0, 1.0),
    "run_threshold": (0.0, 1.0),
    "credit_weight": (0.0, None),
    "credit_power": (0.0, None),
    "credit_decay": (0.0, 1.0),
    "verify_threshold": (0.0, 1.0),
    "edit_threshold": (0.0, 1.0),
    "cache_share": (0.0, 1.0),
    "end_threshold": (0.0, 1.0),
    "insert_end_threshold": (0.0, 1.0),
    "insert_threshold": (0.0, 1.0),
}
WHOLE_NUMBERS = {
    "speculate": 0,
    "top_k": 1,
    "kl_history": 1,
    "slow_steps": 1,
    "leap_radius": 0,
    "max_post_steps": 0,
    "cache_before": 0,
    "cache_after": 0,
    "cache_interval": 1,
    "cache_warmup": 0,
    "cache_delay": 0,
    "cache_horizon": 0,
    "cache_answer_interval": 1,
    "initial_length": 1,
    "lengthen_by": 2,
    "end_window": 1,
}


@dataclass(frozen=True)
class GenerationOptions:
    """Settings of one generation.

    Raises:
        ConfigError: a value is outside its range, or a name is unknown.
    """

    max_new_tokens: int = 128
    """Tokens written after each prompt; infilling ignores it."""

    max_length: int | None = None
    """Tokens of a prompt and what is written after it together, instead of max_new_tokens; infilling ignores it."""

    open_length: bool = False
    """Begin with an answer of initial_length tokens and let it grow, up to max_new_tokens, while the model does not see
    its end (DAEDAL), instead of max_new_tokens from the start; infilling ignores it. For models in which everybody sees
    everybody, without a cache."""

    initial_length: int = 64
    """open_length: tokens to begin with."""

    lengthen_by: int = 8
    """open_length: masks put at the end, or in place of one mask, at a time."""

    end_window: int = 32
    """open_length: tokens at the end of the answer that are asked whether they are its end."""

    end_threshold: float = 0.5
    """open_length: before the first token is written, the answer grows at its end while the certainty that the window
    holds nothing but stop tokens is below this: the mean of their probabilities, 0 where another token is likelier."""

    insert_end_threshold: float = 0.9
    """open_length: while tokens are written, masks may be inserted as long as that certainty is below this."""

    insert_threshold: float = 0.1
    """open_length: masks are inserted at the block's least certain mask, where its best token is less probable."""

    min_new_tokens: int = 0
    """No stop token is written among the first so many tokens, and no stop string ends them; infilling ignores it."""

    stop: tuple[str, ...] = ()
    """Texts that end an answer, which is cut before the first of them; infilling ignores them."""

    regex: str | None = None
    """Write only texts that this regular expression (as Rust has them) matches as a whole; infilling: each stretch of
    blank tokens is such a text. Needs the extra `grammar`."""

    json_schema: str | None = None
    """Write only JSON that this schema describes; a file, or the schema itself. Needs the extra `grammar`."""

    block_size: int | None = 32
    """Tokens decoded together before the next ones are begun, left to right; null: the whole canvas is one block. Not
    given: the block that a block-causal checkpoint was made for, 32 for others; infilling: the whole text."""

    attention: Attention = "auto"
    """Who sees whom: everybody (bidirectional), or each block itself and what is before it, blocks being counted from
    the row's beginning (block_causal); auto: what the model was made for."""

    steps: int = 128
    """Denoising steps in all, spread evenly over the blocks of the longest row; fewer steps commit more at once."""

    steps_per_block: int | None = None
    """Denoising steps of each block, instead of a share of steps."""

    strategy: str = "confidence"
    """Which masked positions to commit at each step; `unmask show strategies` lists them."""

    score: Score | None = None
    """How the strategy tells which proposed tokens are surest: confidence (their probability), margin (to the second
    best), entropy (of all tokens) or random; null: the strategy's own way."""

    reveal: Reveal = "even"
    """How many tokens each step commits, where the strategy asks for a number: even (larger counts first), rounded
    (follows noise_schedule) or truncated (Dream's rule: rounded down, the rest at last; the default of strategy
    dream)."""

    noise_schedule: str = "linear"
    """Noise schedule that reveal=rounded follows."""

    commit_at_least: Least | None = None
    """Strategies with a test: where fewer tokens pass it, commit the best one, or as many of the best as reveal asks
    for (quota); null: the strategy's own number, which is one except for llada2."""

    score_temperature: float = 0.0
    """Strategies without a test: 0 takes the surest positions; above 0 they are drawn, with odds exp(score / this)
    (Dream's alg_temp)."""

    threshold: float | None = None
    """How probable a token must be to be committed; null: the strategy's own value (threshold, adaptive, credit,
    hierarchical, klass, slow_fast, local_leap 0.9; llada2 0.95; revoke 0.6; edit 0.5)."""

    threshold_decay: float = 0.3
    """Strategy adaptive: share by which the threshold falls while the block fills."""

    factor: float = 1.0
    """Strategy factor: the larger, the more tokens at once; n tokens are committed together when (n + 1) times the
    doubt about the least sure one is at most this."""

    entropy_bound: float = 0.15
    """Strategy entropy_bounded: nats by which the tokens committed together may depend on each other."""

    kl_threshold: float = 0.01
    """Strategy klass: a prediction is stable when it changed by less than this many nats from step to step."""

    kl_history: int = 2
    """Strategy klass: steps in a row that a prediction must have been stable."""

    slow_steps: int = 6
    """Strategy slow_fast: most steps that explore before a stretch is decoded fast."""

    span_threshold: float = 0.3
    """Strategy slow_fast: the stretch to decode reaches to the last token that is at least this probable."""

    leap_threshold: float = 0.75
    """Strategy local_leap: how probable a token near a sure one must be."""

    leap_radius: int = 4
    """Strategy local_leap: tokens on either side of a sure one that are near it."""

    run_threshold: float = 0.4
    """Strategy hierarchical: how probable the best token of a run of masks must be."""

    credit_weight: float = 0.7
    """Strategy credit: how much of log(1 + credit) is added to a token's logit (the paper's alpha)."""

    credit_power: float = 0.2
    """Strategy credit: the best token of each step earns its probability to this power (gamma)."""

    credit_decay: float = 0.8
    """Strategy credit: share of the credit that is left one step later (beta)."""

    verify_threshold: float = 0.9
    """Strategy revoke: a written token goes back to mask when it is less probable than this, seen from all others."""

    edit_threshold: float = 0.0
    """Strategy edit: how probable another token must be to replace a written one."""

    max_post_steps: int = 16
    """Strategy edit: most steps that only edit, after the last mask of a block is filled."""

    temperature: float = 0.0
    """0 takes the most probable token; above 0 samples, hotter is more varied."""

    top_k: int | None = None
    """Propose among this many most probable tokens only; null: all."""

    top_p: float | None = None
    """Propose among the fewest tokens that hold this share of the probability, after top_k; null: all."""

    precise_sampling: bool = False
    """Compute probabilities in float64 instead of float32."""

    guidance_scale: float = 0.0
    """Classifier-free guidance towards the prompt; 0 is off, above 0 doubles the work of each step."""

    guidance_keep: Sequence[int] = ()
    """Ids of prompt tokens that the unconditional half of guidance still sees."""

    suppress_tokens: Sequence[int] = ()
    """Ids that are never proposed."""

    begin_suppress_tokens: Sequence[int] = ()
    """Ids that are committed last: proposed, but with no confidence."""

    early_stop: bool = True
    """Stop a row once a stop token and everything before it are committed; false decodes the whole canvas."""

    speculate: int = 0
    """States guessed ahead and looked at in the same forward; changes how many forwards are made, never what is
    written. Worth it for small batches where a forward of more tokens costs little more."""

    cache: str = "auto"
    """What is reused from one step to the next; `unmask show caches` lists them. auto: block where blocks see nothing
    behind them, which is exact, and none elsewhere."""

    cache_before: int | None = None
    """Cached columns before the active block that are computed anew with it; null: the cache's own number."""

    cache_after: int | None = None
    """Cached columns behind the active block that are computed anew with it; null: the cache's own number."""

    cache_interval: int | None = None
    """Steps after which the whole row is computed anew; null: the cache's own number."""

    cache_warmup: int | None = None
    """First steps of a row that compute all of it; null: the cache's own number."""

    cache_delay: int | None = None
    """First steps of a block that compute the block before it, too; null: the cache's own number."""

    cache_horizon: int | None = None
    """Columns behind the active block that exist for the model, besides the last one; null: the cache's own number."""

    cache_answer_interval: int | None = None
    """Cache verify: steps after which all of the answer is computed anew; null: the cache's own number."""

    cache_share: float = 0.25
    """Cache verify: share of the answer's columns that each layer computes anew in all other steps: those whose values
    have moved most."""

    cache_fuse: bool = True
    """Cache block: a finished block is stored by the first forward of the next one; false: by a forward of its own."""

    cache_drift: float | None = None
    """Compute the whole row anew when the values of tokens that stayed as they were have moved, from step to step, by
    more than this share in all; null: not for that reason."""

    seed: int = 0
    """Seed of the first row; row i uses seed + i."""

    trace: bool = False
    """Keep what was committed where and when."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole_number("seed", self.seed))
        for name in ("open_length", "precise_sampling", "early_stop", "cache_fuse", "trace"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be true or false.")
        for name in ("max_new_tokens", "steps", "max_length", "block_size", "steps_per_block"):
            if getattr(self, name) is not None or name in ("max_new_tokens", "steps"):
                at_least_one(name, getattr(self, name))
        if self.min_new_tokens != 0:
            at_least_one("min_new_tokens", self.min_new_tokens)
        object.__setattr__(self, "stop", texts("stop", self.stop))
        _check_grammar(self)
        for name in ("steps", "steps_per_block"):
            if (getattr(self, name) or 0) > MOST_STEPS:
                raise ConfigError(
                    f"{name} is {getattr(self, name):,}; it must be at most {MOST_STEPS:,}. More steps than tokens to "
                    "write change nothing."
                )
        for name, (low, high) in NUMBERS.items():
            if name != "threshold" or self.threshold is not None:
                within(name, getattr(self, name), low, high)
        for name, least in WHOLE_NUMBERS.items():
            if getattr(self, name) is not None or not (name == "top_k" or name.startswith("cache_")):
                at_least(name, getattr(self, name), least)
        for name, high in (("top_p", 1.0), ("cache_drift", None)):
            if getattr(self, name) is not None:
                within(name, getattr(self, name), 0.0, high)
            if self.top_p == 0:
                raise ConfigError("top_p is 0, which leaves no token; it must be above 0 and at most 1, or null.")
        one_of("reveal", self.reveal, Reveal)
        one_of("attention", self.attention, Attention)
        for name, kinds in (("score", Score), ("commit_at_least", Least)):
            if getattr(self, name) is not None:
                one_of(name, getattr(self, name), kinds)
        if self.strategy == "dream" and self.reveal == "even":
            # Dream's own schedule, unless the user asked for dLLM's
            object.__setattr__(self, "reveal", "truncated")
        for name in ("suppress_tokens", "begin_suppress_tokens", "guidance_keep"):
            object.__setattr__(self, name, token_ids(name, getattr(self, name)))
        for table, name in ((STRATEGIES, self.strategy), (CACHES, self.cache), (NOISE_SCHEDULES, self.noise_schedule)):
            if name not in table.names() and name not in table.standing_in:
                table.get(str(name))

    @property
    def first_length(self) -> int:
        """Tokens that an answer has room for at first."""
        if not self.open_length:
            return self.max_new_tokens
        return min(max(self.initial_length, self.min_new_tokens), self.max_new_tokens)

    @classmethod
    def of(cls, **settings: Any) -> GenerationOptions:
        """Options from keyword arguments.

        Raises:
            ConfigError: an unknown name; the message names the nearest one.
        """
        names = [entry.name for entry in fields(cls)]
        for name in settings:
            if name not in names:
                raise ConfigError(
                    f'"{name}" is no option of generation.{did_you_mean(name, names)} Options: {", ".join(names)}.'
                )
        if isinstance(settings.get("json_schema"), Mapping):
            settings["json_schema"] = json.dumps(settings["json_schema"])
        for name in ("regex", "json_schema"):
            if not isinstance(settings.get(name), str | None):
                raise ConfigError(f"{name} is {settings[name]!r}; it must be a text.")
        return cls(**settings)


def _check_grammar(options: GenerationOptions) -> None:
    given = [name for name in ("regex", "json_schema") if getattr(options, name) is not None]
    if len(given) == 2:
        raise ConfigError("regex and json_schema are both given. Give one of them.")
    ends = {"stop": bool(options.stop), "open_length": options.open_length, "early_stop false": not options.early_stop}
    for name in (name for name, is_given in ends.items() if given and is_given):
        raise ConfigError(f"{given[0]} says where an answer ends, and {name} says otherwise. Leave one of them out.")
