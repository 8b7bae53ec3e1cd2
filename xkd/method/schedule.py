"""Learning rate and momentum over the steps of a run (section A.3, Table S4, Equation 13)."""

from __future__ import annotations

import math


def learning_rate(step: int, *, steps: int, warmup: int, base: float, final: float = 0.0) -> float:
    """Linear warm-up from 0 to `base`, both ends included, then a cosine to `final`.

    Args:
        step: 0 ... steps-1.
        steps: length of the run.
        warmup: steps of warm-up.
    """
    if step < warmup:
        return base * step / max(warmup - 1, 1)
    return cosine(step - warmup, steps - warmup, base, final)


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """From `start` at step 0 towards `end` at step `steps`."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / steps))
