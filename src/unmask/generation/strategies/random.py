"""Commit positions in random order, as many as the reveal schedule asks for."""

from __future__ import annotations

from unmask.generation.strategies.quota import Quota


class Random(Quota):
    """`quota` pending positions, all equally likely; a function of the row's seed, the step and the position."""

    own_score = "random"
