"""Commit positions in random order, as many as the reveal schedule asks for."""

from __future__ import annotations

from unmask.generation.strategies.quota import Quota


class Random(Quota):
    """Any positions, as many as the schedule says."""

    own_score = "random"
    knobs = "reveal"
