"""The seam between the loop and what is reused from one forward to the next; one file per policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from unmask.generation.canvas import Canvas
    from unmask.generation.options import GenerationOptions
    from unmask.generation.strategy import Step

ForwardKind = Literal["denoise", "commit", "refresh"]


@dataclass(frozen=True)
class CachePlan:
    """How the next forward runs.

    Attributes:
        cache: keys and values passed to the denoiser; None: the whole canvas is fed.
        kind: under which name the forward is counted.
    """

    cache: Any | None = None
    kind: ForwardKind = "denoise"


class CachePolicy(Protocol):
    """Decides, before each forward, what is fed and what is reused."""

    def __init__(self, options: GenerationOptions) -> None:
        """Take the settings it needs."""
        ...

    def plan(self, canvas: Canvas, step: Step) -> CachePlan:
        """The plan of the next forward."""
        ...
