from __future__ import annotations

import torch

from tests.generation.scenes import drive, of_confidence, written


def test_the_bar_falls_with_the_share_that_is_left() -> None:
    shown = of_confidence([[0.95, 0.8, 0.7, 0.4]])
    # Bars 0.9, then of three quarters left 0.9 (1 - 0.225) = 0.6975, then of one quarter 0.9 (1 - 0.675) = 0.29.
    assert written(drive("adaptive", lambda within: shown, threshold_decay=0.9)) == [[0], [1, 2], [3]]
    # 0.9 (1 - 0.125) = 0.7875
    assert written(drive("adaptive", lambda within: shown, threshold_decay=0.5)) == [[0], [1], [2], [3]]


def test_without_decay_it_is_threshold_and_with_some_it_needs_no_more_steps() -> None:
    script = torch.randn(40, 1, 16, 20, generator=torch.Generator().manual_seed(0)) * 4
    plain = written(drive("threshold", lambda within: script[within]))
    assert written(drive("adaptive", lambda within: script[within], threshold_decay=0.0)) == plain
    assert len(drive("adaptive", lambda within: script[within], threshold_decay=0.9).history) < len(plain)
