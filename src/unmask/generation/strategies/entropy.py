"""Commit where the prediction has the least entropy, as many as the reveal schedule asks for (Dream, "entropy")."""

from __future__ import annotations

from unmask.generation.strategies.quota import Quota


class Entropy(Quota):
    """The `quota` pending positions whose prediction has the least entropy."""

    own_score = "entropy"
