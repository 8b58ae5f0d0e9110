"""Commit where the prediction has the least entropy, as many as the reveal schedule asks for (Dream, "entropy")."""

from __future__ import annotations

from unmask.generation.strategies.quota import Quota


class Entropy(Quota):
    """Where the prediction has the least entropy, as many as the schedule says."""

    own_score = "entropy"
    paper = "arXiv:2508.15487"
