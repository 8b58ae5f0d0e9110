"""The one denoising loop: feed the canvas, propose, let the strategy choose, commit.

`generate`, `infill` and `stream` are three ways to drain it. It knows token ids only: no tokenizer, no model class, no
algorithm of choosing, no cache. All rows work on the same block number; a row takes part in a forward only while it
has something to write there, and never after it is finished.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.diffusion.keys import Purpose
from unmask.diffusion.posterior import reveal_counts
from unmask.errors import ConfigError, ModelError
from unmask.generation.caching import CachePlan, CachePolicy, ForwardKind
from unmask.generation.canvas import Canvas, blanks, continuation, on_host
from unmask.generation.guidance import hide_given, mix, twice
from unmask.generation.options import GenerationOptions
from unmask.generation.proposal import Proposal, propose
from unmask.generation.stopping import cut, finished_B
from unmask.generation.strategy import DecodingStrategy, Step, Transfer
from unmask.generation.trace import Commit, Completion, Forwards, Stats, Trace
from unmask.registry import CACHES, NOISE_SCHEDULES, STRATEGIES
from unmask.types import Denoiser


@dataclass(frozen=True)
class Request:
    """What one run of the loop is asked for, besides the canvas.

    Attributes:
        denoiser: predicts the clean token at masked positions.
        options: see there.
        mask_token_id: the mask token; never proposed.
        stop_token_ids: a row ends at the first of these that it writes; empty: it runs to its end.
        seeds: one per row.
        whole_rows: completions are whole rows (infilling), not only what follows the prompt.
    """

    denoiser: Denoiser
    options: GenerationOptions
    mask_token_id: int
    stop_token_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    whole_rows: bool = False


class Written(NamedTuple):
    """One step, still on the device: the canvas of the rows that took part, after it."""

    canvas: Canvas
    step: Step
    proposal: Proposal
    transfer: Transfer


class Decoding:
    """A run of the loop. Iterate for its commits, then ask for its completions; `run` does both.

    Attributes:
        canvas: all rows as they stand now.
    """

    def __init__(self, request: Request, canvas: Canvas) -> None:
        options = request.options
        self.request, self.options = request, options
        self._firsts, self._writable = canvas.starts, canvas.writable
        self._strategy: DecodingStrategy = STRATEGIES.get(options.strategy)(options)
        self._state = self._strategy.init(len(canvas.rows))
        self._cache: CachePolicy = CACHES.get(options.cache)(options)
        self._schedule = NOISE_SCHEDULES.get(options.noise_schedule)()
        self._block_size = options.block_size or max(canvas.writable, 1)
        self._hides_later = options.attention == "block_causal" and options.block_size is not None
        self.canvas = self._start = canvas.on_grid(self._block_size) if self._hides_later else canvas
        self._number = 0
        self._is_broken = canvas.is_masked_BL.new_zeros(())
        self._forwards: list[dict[ForwardKind, int]] = [{} for _ in canvas.rows]
        self._positions = [0] * len(canvas.rows)
        self._commits: list[list[Commit]] = [[] for _ in canvas.rows]
        self._steps = self._run()

    def __iter__(self) -> Iterator[Commit]:
        """The commits as they happen, rows in order within a step."""
        for written in self._steps:
            commits = commits_of(written)
            if self.options.trace:
                self._keep(commits)
            yield from commits

    def run(self) -> list[Completion]:
        """Decode to the end; one completion per row."""
        for written in self._steps:
            if self.options.trace:
                self._keep(commits_of(written))
        return self.completions()

    def completions(self) -> list[Completion]:
        """One completion per row, as the canvas stands; what is not yet written holds the mask token."""
        rows = on_host(self.canvas.tokens_BL)
        return [self._completion(row, token_ids) for row, token_ids in enumerate(rows)]

    def _run(self) -> Iterator[Written]:
        for block in range(math.ceil(self.canvas.writable / self._block_size)):
            yield from self._decode_block(block)
            # Asked once per block: looking at every step would make the host wait for the device.
            if bool(self._is_broken):
                raise ModelError(
                    f"The model's logits are not finite in block {block}: its weights are damaged, or overflow in this "
                    'dtype. Check the checkpoint, or load it with dtype "float32".'
                )

    def _decode_block(self, block: int) -> Iterator[Written]:
        window_BL = self.canvas.window_BL(block, self._block_size)
        quota_BS = self._quotas((self.canvas.is_masked_BL & window_BL).sum(1))
        for within in range(self._block_size + 1):
            rows = self._active(window_BL)
            if not rows:
                return
            if within == self._block_size:
                raise ConfigError(
                    f'Strategy "{self.options.strategy}" left masks in block {block} after {within} steps; '
                    "a strategy commits at least one token per row and step."
                )
            part = self.canvas.take(rows)
            step = Step(
                number=self._number,
                blocks=(block,) * len(rows),
                withins=(within,) * len(rows),
                block_size=self._block_size,
                first_B=part.column(part.starts) + block * self._block_size,
                quota_B=quota_BS[part.column(rows), min(within, quota_BS.shape[1] - 1)],
                seeds=tuple(self.request.seeds[row] for row in rows),
            )
            yield self._write(part, step)

    def _quotas(self, masks_B: Int[Tensor, " B"]) -> Int[Tensor, "B S"]:
        """How many tokens each row commits at each step of the block."""
        steps = self.options.steps_per_block
        if steps is None:
            # Of the longest row, as in dLLM: where rows to fill in differ in length, steps depend on the batch.
            steps = math.ceil(self.options.steps / math.ceil(self._writable / self._block_size))
        return reveal_counts(masks_B, steps, how=self.options.reveal, schedule=self._schedule)

    def _active(self, window_BL: Bool[Tensor, "B L"]) -> list[int]:
        is_active_B = (self.canvas.is_masked_BL & window_BL).any(1)
        if self.request.stop_token_ids:
            is_active_B &= ~finished_B(self.canvas, self.request.stop_token_ids)
        return on_host(is_active_B.nonzero()[:, 0])

    @torch.no_grad()
    def _write(self, part: Canvas, step: Step) -> Written:
        pending_BL = part.is_masked_BL & part.window_BL(step.blocks[0], self._block_size)
        plan = self._cache.plan(part, step)
        seen = part.up_to(step.blocks[0], self._block_size) if self._hides_later else part
        logits_nV = self._logits(seen, pending_BL[:, : seen.tokens_BL.shape[1]], plan)
        proposal = self._propose(logits_nV, pending_BL, step)
        transfer = self._strategy.select(proposal, part, step, self._state)
        after = part.apply(transfer.write_BL, proposal.predicted_BL, transfer.remask_BL, self.request.mask_token_id)
        self.canvas = self.canvas.put(part.rows, after)
        self._is_broken = self._is_broken | proposal.log_prob_BL.isnan().any()
        self._count(seen, plan)
        return Written(after, step, proposal, transfer)

    def _logits(self, part: Canvas, pending_BL: Bool[Tensor, "B L"], plan: CachePlan) -> Float[Tensor, "n V"]:
        at_n = pending_BL.flatten().nonzero()[:, 0]
        tokens_BL, attention = part.tokens_BL, part.attention(self._block_size if self._hides_later else None)
        if self.options.guidance_scale > 0:
            hidden_BL = hide_given(part, self.request.mask_token_id, tuple(self.options.guidance_keep))
            at_n = torch.cat([at_n, at_n + tokens_BL.numel()])
            tokens_BL, attention = torch.cat([tokens_BL, hidden_BL]), twice(attention)
        output = self.request.denoiser(tokens_BL, attention=attention, cache=plan.cache, logits_at=at_n)
        if output.logits is None:
            raise ModelError("The denoiser returned no logits at the positions asked for; generation needs them.")
        return mix(output.logits, self.options.guidance_scale) if self.options.guidance_scale > 0 else output.logits

    def _propose(self, logits_nV: Float[Tensor, "n V"], pending_BL: Bool[Tensor, "B L"], step: Step) -> Proposal:
        options = self.options
        never = (self.request.mask_token_id, *options.suppress_tokens)
        check_options(logits_nV.shape[1], options)
        uniform_n = None
        if options.temperature > 0:
            uniform_n = step.uniforms_BL(Purpose.SAMPLE, pending_BL.shape[1])[pending_BL]
        return propose(
            logits_nV,
            pending_BL,
            never=never,
            last=tuple(options.begin_suppress_tokens),
            temperature=options.temperature,
            uniform_n=uniform_n,
            precise=options.precise_sampling,
        )

    def _count(self, part: Canvas, plan: CachePlan) -> None:
        self._number += 1
        width = part.tokens_BL.shape[1] * (2 if self.options.guidance_scale > 0 else 1)
        for row in part.rows:
            self._forwards[row][plan.kind] = self._forwards[row].get(plan.kind, 0) + 1
            self._positions[row] += width

    def _keep(self, commits: list[Commit]) -> None:
        for commit in commits:
            self._commits[commit.row].append(commit)

    def _completion(self, row: int, token_ids: list[int]) -> Completion:
        start = 0 if self.request.whole_rows else self._firsts[row]
        emitted, is_stopped = cut(token_ids[start : self.canvas.ends[row]], self.request.stop_token_ids)
        count = int(self._start.is_masked_BL[row].sum()) if self.request.whole_rows else len(emitted)
        stats = Stats(count, Forwards(**self._forwards[row]), self._positions[row])
        trace = self._trace(row) if self.options.trace else None
        return Completion(emitted, "stop" if is_stopped else "length", stats, trace)

    def _trace(self, row: int) -> Trace:
        token_ids = on_host(self._start.tokens_BL[row, : self._start.ends[row]])
        masked = on_host(self._start.is_masked_BL[row].nonzero()[:, 0])
        return Trace(tuple(token_ids), tuple(masked), tuple(self._commits[row]))


def commits_of(written: Written) -> list[Commit]:
    """One `Commit` per row that the step changed."""
    canvas, step, proposal, transfer = written
    remask_BL = transfer.remask_BL if transfer.remask_BL is not None else torch.zeros_like(transfer.write_BL)
    write_BL = transfer.write_BL.cpu()
    tokens_BL, probability_BL = canvas.tokens_BL.cpu(), proposal.log_prob_BL.exp().cpu()
    remask_BL = remask_BL.cpu()
    return [
        Commit(
            row=row,
            step=step.number,
            block=step.blocks[index],
            positions=tuple(on_host(write_BL[index].nonzero()[:, 0])),
            token_ids=tuple(on_host(tokens_BL[index][write_BL[index]])),
            confidences=tuple(on_host(probability_BL[index][write_BL[index]])),
            remasked=tuple(on_host(remask_BL[index].nonzero()[:, 0])),
        )
        for index, row in enumerate(canvas.rows)
    ]


def stream(
    denoiser: Denoiser,
    prompts: Sequence[Sequence[int]],
    *,
    options: GenerationOptions,
    mask_token_id: int,
    stop_token_ids: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Decoding:
    """Continue each prompt, commit by commit: iterate over what this returns, then ask for its `completions()`.

    Arguments, results and errors are those of `generate`.
    """
    check_rows(prompts, vocab_size, "prompt")
    canvas = continuation(prompts, options.max_new_tokens, mask_token_id, device)
    stops = tuple(stop_token_ids) if options.early_stop else ()
    return Decoding(Request(denoiser, options, mask_token_id, stops, row_seeds(options, seeds, len(prompts))), canvas)


def generate(
    denoiser: Denoiser,
    prompts: Sequence[Sequence[int]],
    *,
    options: GenerationOptions,
    mask_token_id: int,
    stop_token_ids: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> list[Completion]:
    """Continue each prompt.

    Args:
        denoiser: the network; see `unmask.types.Denoiser`.
        prompts: token ids; any id, the mask's included, is text like any other. An empty prompt is allowed.
        options: see `GenerationOptions`.
        mask_token_id: the mask token.
        stop_token_ids: ids that end a row, unless `options.early_stop` is off.
        seeds: one per row; None: `options.seed` + row.
        vocab_size: where known, the prompts' ids are checked against it before anything runs.
        device: where the denoiser computes.

    Returns:
        One completion per prompt; each is a function of its prompt, its seed and the options only.

    Raises:
        ConfigError: a wrong id or number of seeds.
        ModelError: the denoiser's logits are not numbers.
    """
    return stream(
        denoiser,
        prompts,
        options=options,
        mask_token_id=mask_token_id,
        stop_token_ids=stop_token_ids,
        seeds=seeds,
        vocab_size=vocab_size,
        device=device,
    ).run()


def stream_infill(
    denoiser: Denoiser,
    rows: Sequence[Sequence[int]],
    editable: Sequence[Sequence[bool]] | None = None,
    *,
    options: GenerationOptions,
    mask_token_id: int,
    seeds: Sequence[int] | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Decoding:
    """Fill in, commit by commit: iterate over what this returns, then ask for its `completions()`.

    Arguments, results and errors are those of `infill`.
    """
    check_rows(rows, vocab_size, "row")
    blank = editable if editable is not None else [[token == mask_token_id for token in row] for row in rows]
    if [len(row) for row in rows] != [len(row) for row in blank]:
        raise ConfigError("editable must have one boolean for each token of each row.")
    canvas = blanks(rows, blank, mask_token_id, device)
    seeds = row_seeds(options, seeds, len(rows))
    return Decoding(Request(denoiser, options, mask_token_id, (), seeds, whole_rows=True), canvas)


def infill(
    denoiser: Denoiser,
    rows: Sequence[Sequence[int]],
    editable: Sequence[Sequence[bool]] | None = None,
    *,
    options: GenerationOptions,
    mask_token_id: int,
    seeds: Sequence[int] | None = None,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
) -> list[Completion]:
    """Fill in the editable positions of each row; nothing else ever changes.

    Args:
        denoiser: the network; see `unmask.types.Denoiser`.
        rows: token ids.
        editable: True where a token is to be written; None: wherever the mask token stands.
        options: see `GenerationOptions`; blocks are counted from the row's beginning.
        mask_token_id: the mask token.
        seeds: one per row; None: `options.seed` + row.
        vocab_size: where known, the rows' ids are checked against it before anything runs.
        device: where the denoiser computes.

    Returns:
        One completion per row: the whole row, all blanks filled; a stop token does not end it.

    Raises:
        ConfigError: a wrong id, number of seeds or shape of `editable`.
        ModelError: the denoiser's logits are not numbers.
    """
    return stream_infill(
        denoiser,
        rows,
        editable,
        options=options,
        mask_token_id=mask_token_id,
        seeds=seeds,
        vocab_size=vocab_size,
        device=device,
    ).run()


def row_seeds(options: GenerationOptions, seeds: Sequence[int] | None, rows: int) -> tuple[int, ...]:
    """The seed of each row."""
    if seeds is None:
        return tuple(options.seed + row for row in range(rows))
    if len(seeds) != rows:
        raise ConfigError(f"{len(seeds)} seeds for {rows} rows; give one seed per row.")
    return tuple(seeds)


def check_rows(rows: Sequence[Sequence[int]], vocab_size: int | None, what: str) -> None:
    """Refuse ids that the model has no row for."""
    for number, row in enumerate(rows):
        for token_id in row:
            if token_id < 0 or (vocab_size is not None and token_id >= vocab_size):
                allowed = f"0 to {vocab_size - 1}" if vocab_size is not None else "at least 0"
                raise ConfigError(f"{what} {number} holds token id {token_id}; the model knows ids {allowed}.")


def check_options(vocab_size: int, options: GenerationOptions) -> None:
    """Refuse suppressed ids that the model has no logit for, and suppressing all of them."""
    suppressed = {*options.suppress_tokens, *options.begin_suppress_tokens}
    worst = max(suppressed, default=0)
    if worst >= vocab_size:
        raise ConfigError(f"suppressed token id {worst} is unknown; the model knows ids 0 to {vocab_size - 1}.")
    if len(suppressed) >= vocab_size - 1:
        raise ConfigError(f"{len(suppressed)} of {vocab_size} token ids are suppressed; nothing is left to write.")
