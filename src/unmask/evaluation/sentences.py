"""How near a sentence comes to the right one: ROUGE (Lin 2004) and BLEU (Papineni et al. 2002).

Counted by rouge-score, without its stemmer, and by sacrebleu, with its own tokenizer. Knows texts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from unmask.errors import ResourceError
from unmask.evaluation.report import SHARE, Metric

ROUGE = ("rouge1", "rouge2", "rougeL")
RESAMPLES = 1000


def check_installed() -> None:
    """Raises ResourceError: a package that counts is missing."""
    missing = [name for name in ("rouge_score", "sacrebleu") if find_spec(name) is None]
    if missing:
        raise ResourceError(
            f'ROUGE and BLEU need {" and ".join(missing)}, not installed here. Install them: pip install "unmask[eval]"'
        )


def sentence_scores(gold: str, prediction: str) -> dict[str, float]:
    """F of ROUGE-1, -2 and -L, and BLEU of this sentence alone (orders that it is too short for do not count); 0 to 1.

    Raises:
        ResourceError: see `check_installed`.
    """
    check_installed()
    rouge = _rouge().score(gold, prediction)
    found = {name: float(rouge[name].fmeasure) for name in ROUGE}
    return found | {"sentence_bleu": _bleu().sentence_score(prediction, [gold]).score / 100}


def corpus_bleu(golds: Sequence[str], predictions: Sequence[str], *, seed: int = 0) -> Metric:
    """BLEU of all sentences together, 0 to 1; error and interval by drawing sentences with replacement (Koehn 2004).

    Raises:
        ResourceError: see `check_installed`.
    """
    check_installed()
    bleu = _bleu()
    pairs = zip(predictions, golds, strict=True)
    counts = np.asarray([_counts(bleu.sentence_score(given, [gold])) for given, gold in pairs], dtype=np.int64)
    draw = np.random.default_rng(seed)
    drawn = [_of(bleu, counts[draw.integers(0, len(counts), len(counts))].sum(0)) for _ in range(RESAMPLES)]
    low, high = (float(edge) for edge in np.percentile(drawn, [2.5, 97.5]))
    return Metric(_of(bleu, counts.sum(0)), float(np.std(drawn)), len(counts), SHARE, low, high)


def _counts(score: Any) -> list[int]:
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def _of(bleu: Any, counts: np.ndarray) -> float:
    """BLEU of summed counts: n-grams that are right, n-grams, words given, words of the right sentences."""
    order = (len(counts) - 2) // 2
    right, all_, (given, wanted) = counts[:order], counts[order : 2 * order], counts[2 * order :]
    score = bleu.compute_bleu(right.tolist(), all_.tolist(), int(given), int(wanted)).score
    # rounding may leave a little more
    return min(1.0, score / 100)


@lru_cache(1)
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE), use_stemmer=False)


@lru_cache(1)
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    # of sentences alone only; a total says by itself how it is counted
    return BLEU(effective_order=True)
