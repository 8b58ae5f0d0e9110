"""LLaDA2's and SDAR's rule: every token that is probable enough, and at least as many as the reveal schedule asks for.

Source: LLaDA2.0 (arXiv:2512.15745), its `generate`; SDAR (arXiv:2510.06303), "low_confidence_dynamic".
"""

from __future__ import annotations

from unmask.generation.strategies.threshold import Threshold


class LLaDA2(Threshold):
    """What is at least `threshold` probable, and never fewer than the schedule says (LLaDA2, SDAR)."""

    paper = "arXiv:2512.15745"
    knobs = "threshold, reveal, score, commit_at_least"
    own_least = "quota"
    own_threshold = 0.95
