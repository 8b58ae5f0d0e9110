"""Commit where the best token is furthest ahead of the second, as many as the reveal schedule asks for.

Source: arXiv:2502.06768 ("top-k margin"); Dream's alg "topk_margin".
"""

from __future__ import annotations

from unmask.generation.strategies.quota import Quota


class Margin(Quota):
    """Where the best token is furthest ahead of the second, as many as the schedule says."""

    own_score = "margin"
    paper = "arXiv:2502.06768"
