"""Commit the most confident tokens first, as many as the reveal schedule asks for (LLaDA, "low confidence")."""

from __future__ import annotations

from unmask.generation.strategies.quota import Quota


class Confidence(Quota):
    """The `quota` pending positions whose proposed token is most probable."""

    own_score = "confidence"
