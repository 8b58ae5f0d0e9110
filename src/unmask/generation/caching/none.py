"""No cache: every forward feeds the whole canvas."""

from __future__ import annotations

from unmask.generation.caching import CachePlan
from unmask.generation.canvas import Canvas
from unmask.generation.options import GenerationOptions
from unmask.generation.strategy import Step


class NoCache:
    """Plans a plain forward, always."""

    def __init__(self, options: GenerationOptions) -> None:
        del options

    def plan(self, canvas: Canvas, step: Step) -> CachePlan:
        """See `CachePolicy`."""
        del canvas, step
        return CachePlan()
