"""The cycle of exploring and decoding, step by step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.generation.scenes import drive, of_confidence, written


def told(*steps: list[float]) -> Callable[[int], Tensor]:
    """A script of confidences; the last line goes on."""

    def script(within: int) -> Tensor:
        return of_confidence([steps[min(within, len(steps) - 1)]], vocab=100)

    return script


def test_a_settled_stretch_is_filled_before_anything_behind_it() -> None:
    calm = [0.95, 0.92, 0.5, 0.4, 0.1, 0.2, 0.15, 0.12]
    late = [0.95, 0.92, 0.5, 0.4, 0.1, 0.2, 0.97, 0.98]
    # Step 0 explores to position 3, step 1 too: settled. Steps 2 and on may not touch 6 and 7 until 3 is written.
    steps = written(drive("slow_fast", told(calm, calm, late)))
    assert steps[:4] == [[0, 1], [2], [3], [6, 7]]
    # The next cycle begins at 4: no token reaches the span's bar, so the stretch is one position long at first.
    assert steps[4:] == [[5], [4]]


def test_unsettled_estimates_end_in_their_mean() -> None:
    far, near = [0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.4, 0.5], [0.1, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    back = [0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.1]
    late = [0.1, 0.1, 0.13, 0.14, 0.15, 0.95, 0.95, 0.1]
    # Ends 8, 2, 7 with three slow steps: the stretch is (2 + 7) // 2 = 4, so 5 and 6 have to wait for 2 and 3.
    steps = written(drive("slow_fast", told(far, near, back, late), slow_steps=3))
    assert steps == [[7], [1], [0], [3], [2], [5, 6], [4]]


def test_one_slow_step_is_an_estimate_of_its_own() -> None:
    flat = [0.5, 0.4, 0.2, 0.2, 0.95, 0.1]
    steps = written(drive("slow_fast", told(flat), slow_steps=1))
    # End 5: of the stretch everything is left but 4.
    assert steps == [[4], [0], [1], [2], [3], [5]]


def test_with_no_span_to_fill_it_is_the_threshold_rule() -> None:
    generator = torch.Generator().manual_seed(0)
    script = torch.randn(40, 1, 10, 20, generator=generator) * 4
    # A bar of zero makes every stretch reach to the block's last mask.
    ours = written(drive("slow_fast", lambda within: script[within], span_threshold=0.0))
    assert ours == written(drive("threshold", lambda within: script[within]))
