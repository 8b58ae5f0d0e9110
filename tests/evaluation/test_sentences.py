"""ROUGE and BLEU: against counts by hand and sacrebleu's own total; what is said where they are not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from unmask.errors import ResourceError
from unmask.evaluation import sentences
from unmask.evaluation.sentences import corpus_bleu, sentence_scores


def test_rouge_counts_words_pairs_and_common_order() -> None:
    found = sentence_scores("the cat sat on the mat", "the mat sat on the cat")
    # six words of six; of five pairs all but "cat sat"; the longest in order is "the sat on the"
    assert (
        found["rouge1"] == 1.0 and found["rouge2"] == pytest.approx(4 / 5) and found["rougeL"] == pytest.approx(4 / 6)
    )
    assert sentence_scores("medals", "medal")["rouge1"] == 0.0  # no stemmer
    assert sentence_scores("a b c d e", "a b c d e")["sentence_bleu"] == pytest.approx(1.0)
    assert sentence_scores("a b", "")["rougeL"] == 0.0


def test_bleu_of_all_is_of_summed_counts() -> None:
    given = ["the cat sat on a mat today", "he won two gold medals in Oslo"]
    right = ["the cat sat on the mat today", "he won three gold medals in Oslo"]
    from sacrebleu import corpus_bleu as official

    found = corpus_bleu(right, given)
    assert found.mean == pytest.approx(official(given, [right]).score / 100)
    assert found.low is not None and found.high is not None and found.low <= found.mean <= found.high
    assert (found.count, found.unit) == (2, "share")
    assert corpus_bleu(["a b c d"] * 3, ["a b c d"] * 3).stderr == 0.0


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(sentences, "find_spec", lambda name: None if name == "sacrebleu" else there(name))
    with pytest.raises(ResourceError, match=r"need sacrebleu, not installed.*unmask\[eval\]"):
        sentence_scores("a", "b")
