"""The learning rate of a step: linear warm-up, then a straight line or half a cosine down."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["learning_rate"]


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    steps: int,
    final_share: float,
    schedule: Literal["linear", "cosine"] = "cosine",
) -> float:
    """Rate of step `step` (from 0): up to `peak` over `warmup_steps`, down to `final_share * peak` at the last one."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    left = 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final_share + (1 - final_share) * left)
