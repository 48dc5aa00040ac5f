"""The learning rate rises to its peak in a line and falls in half a cosine."""

from __future__ import annotations

import pytest

from kosmos.training.schedule import learning_rate


def _rate(step: int) -> float:
    return learning_rate(step, peak=1.0, warmup_steps=10, steps=110, final_share=0.1)


def test_the_rate_rises_in_a_line_to_the_peak() -> None:
    assert [_rate(0), _rate(4), _rate(9), _rate(10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


def test_the_rate_falls_to_its_final_share_at_the_last_step() -> None:
    assert _rate(109) == pytest.approx(0.1)
    assert _rate(500) == pytest.approx(0.1)
    falling = [_rate(step) for step in range(10, 110)]
    assert falling == sorted(falling, reverse=True)
