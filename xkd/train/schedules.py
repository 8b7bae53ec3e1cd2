"""Learning rate, momentum and temperatures over a run's steps (A.3, B.1, Table S4, Equation 13)."""

from __future__ import annotations

import math
from typing import Literal


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


def temperature(
    step: int, per_epoch: int, epochs: int, start: float, end: float, shape: Literal["cosine", "linear"]
) -> float:
    """A teacher's temperature, which goes from `start` to `end` in so many epochs and stays there.

    cosine: step by step (B.1). linear: epoch by epoch, the last of them at `end` (the authors' code).
    """
    if shape == "linear":
        return start + (end - start) * min(step // per_epoch, epochs - 1) / max(epochs - 1, 1)
    return cosine(min(step, epochs * per_epoch), epochs * per_epoch, start, end)
