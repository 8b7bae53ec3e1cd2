"""Learning rate, momentum and temperatures over the steps of a run (A.3, B.1, Table S4, Equation 13)."""

from __future__ import annotations

import math
from typing import Literal

from xkd.config import MODALITIES, PretrainConfig
from xkd.model.terms import TEACHER_TEMPERATURE


def schedule(config: PretrainConfig, step: int, steps: int, per_epoch: int) -> dict[str, float]:
    """Return the scheduled values of a step, 0 ... steps-1, as fields of metrics.jsonl (Table S4, B.1)."""
    optim = config.optim
    warmup = optim.warmup_epochs * per_epoch
    values = {}
    for m in MODALITIES:
        start, end = config.modality(m).teacher_temperature_start, config.modality(m).teacher_temperature
        ends = (end if start is None else start, end, optim.temperature_schedule)
        values[TEACHER_TEMPERATURE[m]] = temperature(step, per_epoch, optim.temperature_epochs, *ends)
    return values | {
        "lr": learning_rate(step, steps=steps, warmup=warmup, base=optim.lr, final=optim.lr_final),
        "weight_decay": optim.weight_decay,
        "momentum": cosine(step, steps, optim.ema_base, optim.ema_final),
    }


def learning_rate(step: int, *, steps: int, warmup: int, base: float, final: float = 0.0) -> float:
    """Return a linear warmup from 0 to `base`, both included, in `warmup` steps, then a cosine to `final`."""
    if step < warmup:
        return base * step / max(warmup - 1, 1)
    return cosine(step - warmup, steps - warmup, base, final)


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """Return a cosine from `start` at step 0 to `end` at step `steps`."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / steps))


def temperature(
    step: int, per_epoch: int, epochs: int, start: float, end: float, shape: Literal["cosine", "linear"]
) -> float:
    """Return a teacher's temperature: from `start` to `end` within `epochs`, then constant.

    cosine: per step (B.1). linear: per epoch, the last of them at `end` (the authors' code).
    """
    if shape == "linear":
        return start + (end - start) * min(step // per_epoch, epochs - 1) / max(epochs - 1, 1)
    return cosine(min(step, epochs * per_epoch), epochs * per_epoch, start, end)
