"""Dream's sampler: its time schedule (options.reveal "truncated"), its scores and its drawing of positions.

alg maskgit_plus, topk_margin and entropy are the scores confidence, margin and entropy; alg_temp is score_temperature.
alg origin (each mask revealed by a coin of its own) is the score random, with the number of heads it expects.

Source: Dream 7B (arXiv:2508.15487), its `diffusion_generate`.
"""

from __future__ import annotations

from unmask.generation.strategies.quota import Quota


class Dream(Quota):
    """The most probable tokens, as many as Dream's schedule says; with score_temperature they are drawn."""

    own_score = "confidence"
    paper = "arXiv:2508.15487"
