"""A model that fills the blanks of texts, and is asked how long the open ones should be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from unmask.data.blanks import Blanked
from unmask.errors import ConfigError
from unmask.generation.automaton import Automaton
from unmask.generation.decoding import Decoding
from unmask.generation.grammar import has_text_of, runs_of
from unmask.generation.loop import row_seeds, stream_gaps
from unmask.generation.options import GenerationOptions
from unmask.generation.rows import Gaps
from unmask.generation.trace import Completion, Forwards, Stats
from unmask.lm.infilling import (
    BlankRow,
    Lengths,
    check_blanks,
    choose_lengths,
    filled,
    lengths_of_runs,
    mean_log_prob,
    text_row,
    with_cost,
)
from unmask.lm.many import BATCH_SIZE
from unmask.lm.streaming import Generation, Part, TextStream
from unmask.lm.working import at_work, shortage_told
from unmask.models.shell import DiffusionModel
from unmask.models.tokenizers import mask_token_id


class Filler:
    """Fills texts.

    Args:
        model, tokenizer: who fills. options: how. automaton: the language of each stretch of blank tokens; None: any.
    """

    def __init__(
        self,
        model: DiffusionModel,
        tokenizer: PreTrainedTokenizerBase,
        options: GenerationOptions,
        automaton: Automaton | None = None,
    ) -> None:
        self.model, self.tokenizer, self.options, self.automaton = model, tokenizer, options, automaton

    def stream(self, read: Sequence[Blanked | BlankRow], seeds: Sequence[int] | None) -> TextStream:
        """A generation under way that fills all texts at once, the lengths of open blanks being found before.

        Raises:
            ConfigError: a text without a blank, a wrong number of seeds, or a text too long for the model.
        """
        check_blanks(read)
        chosen = row_seeds(self.options, seeds, len(read))
        found = [self._row(text, seed) for text, seed in zip(read, chosen, strict=True)]
        with shortage_told(self.model):
            part = Part(self._decoding([row for row, _ in found], self.options, chosen), tuple(range(len(found))))

        def finish(number: int, done: Completion) -> Generation:
            row, cost = found[number]
            return with_cost(filled(row, done, self.tokenizer), cost)

        return TextStream(self.model, [part], finish)

    def _decoding(self, rows: Sequence[BlankRow], options: GenerationOptions, seeds: Sequence[int]) -> Decoding:
        longest, limit = max((len(row.ids) for row in rows), default=0), self.model.facts.shape.max_length
        if longest > limit:
            raise ConfigError(f"a text has {longest:,} tokens; the model was made for {limit:,}. Shorten it.")
        return stream_gaps(
            self.model,
            [Gaps(row.ids, row.editable, seed, self.automaton) for row, seed in zip(rows, seeds, strict=True)],
            options=options,
            mask_token_id=mask_token_id(self.tokenizer, self.model),
            vocab_size=self.model.facts.shape.vocab_size,
            device=self.model.device,
        )

    def _row(self, read: Blanked | BlankRow, seed: int) -> tuple[BlankRow, Stats]:
        """The row of a text, its open lengths chosen, and what it cost to choose them."""
        if isinstance(read, BlankRow):
            return read, _sum([])
        lengths, spent = tuple(blank.least for blank in read.blanks), list[Stats]()
        if read.is_open:
            runs = None
            if self.automaton is not None:
                row = text_row(read, lengths, self.tokenizer)
                runs = lengths_of_runs(read.blanks, row, lambda total: self._has_texts([total]))
            lengths = choose_lengths(read.blanks, lambda tried: self._possible_scores(read, tried, seed, spent), runs)
        return text_row(read, lengths, self.tokenizer), _sum(spent)

    def _possible_scores(
        self, read: Blanked, tried: Sequence[Lengths], seed: int, spent: list[Stats]
    ) -> Sequence[float]:
        """`_scores`, -inf at lengths that no text of the language has."""
        if self.automaton is None:
            return self._scores(read, tried, seed, spent)
        possible = [lengths for lengths in tried if self._is_possible(text_row(read, lengths, self.tokenizer))]
        scores = dict(zip(possible, self._scores(read, possible, seed, spent), strict=True))
        return [scores.get(lengths, -math.inf) for lengths in tried]

    def _is_possible(self, row: BlankRow) -> bool:
        runs = runs_of([place for place, is_blank in enumerate(row.editable) if is_blank])
        return self._has_texts([length for _, length in runs])

    def _has_texts(self, lengths: Sequence[int]) -> bool:
        """Whether the language has texts of so many tokens each."""
        never = (mask_token_id(self.tokenizer, self.model), *self.options.suppress_tokens)
        return self.automaton is None or has_text_of(self.automaton, lengths, never)

    def _scores(self, read: Blanked, tried: Sequence[Lengths], seed: int, spent: list[Stats]) -> list[float]:
        """How likely the model finds what it writes at these lengths; what it cost goes to `spent`."""
        scores: list[float] = []
        for start in range(0, len(tried), BATCH_SIZE):
            rows = [text_row(read, lengths, self.tokenizer) for lengths in tried[start : start + BATCH_SIZE]]
            with at_work(self.model):
                done = self._decoding(rows, replace(self.options, trace=True), [seed] * len(rows)).run()
            spent.extend(completion.stats for completion in done)
            scores += [mean_log_prob(completion) for completion in done]
        return scores


def _sum(spent: Sequence[Stats]) -> Stats:
    forwards = [stats.forwards for stats in spent]
    calls = [sum(getattr(one, kind) for one in forwards) for kind in ("denoise", "commit", "refresh")]
    return Stats(0, Forwards(*calls), sum(stats.positions for stats in spent))
