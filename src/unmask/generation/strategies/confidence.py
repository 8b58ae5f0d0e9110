"""Commit the most confident tokens first, as many as the reveal schedule asks for (LLaDA, "low confidence")."""

from __future__ import annotations

from unmask.generation.strategies.quota import Quota


class Confidence(Quota):
    """The most probable tokens, as many as the schedule says (LLaDA)."""

    own_score = "confidence"
    paper = "arXiv:2502.09992"
