"""The verdict on a run: is the distillation alive (section B.5, Figure S3)?

KD = teacher entropy + KLD. When the outputs turn one-hot, all three go to 0; when they turn constant, KLD
alone does. A projector with norms keeps its student from following a teacher all the way to uniform outputs,
and then not even KLD does: so it is also asked how much a teacher's output still tells about the clip, the
entropy of its mean distribution over a batch less its mean entropy. Each is judged by the median of a window,
because single steps spike. docs/collapse.md says on which runs the levels were found.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from xkd.config import PretrainConfig
from xkd.model.terms import DIRECTIONS
from xkd.rundir import Verdict

VERDICTS = ("healthy", "one_hot", "constant", "non_finite", "stalled")
WINDOW = 10
"""Rows of metrics that a judgement rests on."""
ZERO = 0.02
"""Share under which KD or KLD counts as zero, of ln K, the largest possible entropy; and under which what a
teacher tells of the clip does, of the logarithm of the clips in a batch, the most there is to tell."""
FOLLOWED = 0.5
"""Share of ln K that KLD must be under for a teacher that tells nothing to count: before it is trained, a
teacher gives every clip nearly the same output too, but its student is far from it."""
ONE_HOT_ENTROPY = 0.1
"""Share of ln K under which the teachers' entropy makes a collapse one-hot; above it is constant."""
LONGEST_GRACE = 500
"""Steps of warm-up, at most, in which nothing counts as a collapse: a day's warm-up must not hide one."""
STALL_SECONDS = 600.0
"""Shortest silence that counts as one."""
STALL_INTERVALS = 20
"""Silence, in usual intervals between rows, that counts as one."""


@dataclass(frozen=True)
class CollapseThresholds:
    """What a run is held against."""

    outputs: int | None
    """K, the width of the projector's output; None: nothing was distilled, so nothing can collapse."""
    clips: int
    """Clips in a batch."""
    grace: int = 0
    """Steps in which nothing counts as a collapse."""

    @staticmethod
    def of(config: PretrainConfig, steps_per_epoch: int) -> CollapseThresholds:
        """The limits of a run."""
        warmup = math.ceil(config.optim.warmup_epochs * steps_per_epoch)
        outputs = config.projector.out_dim if config.loss.distill else None
        return CollapseThresholds(outputs, config.optim.batch_size, min(warmup, LONGEST_GRACE))

    @property
    def largest_entropy(self) -> float:
        """Ln K, in nats; NaN where nothing is distilled."""
        return math.log(self.outputs) if self.outputs else math.nan

    @property
    def largest_information(self) -> float:
        """The logarithm of the clips in a batch, the most an output can tell of one; NaN likewise."""
        return math.log(self.clips) if self.outputs else math.nan

    @property
    def zero(self) -> float:
        """Under it KD or KLD counts as zero, in nats."""
        return ZERO * self.largest_entropy


def judge(
    history: Collection[Mapping[str, Any]], limits: CollapseThresholds, now: float | None = None
) -> Verdict:
    """Judge the newest rows of metrics.jsonl.

    Args:
        history: rows with ``step``, ``loss``, ``time`` and ``kd_*``, ``kld_*``, ``information_*`` per
            direction, oldest first; more than `WINDOW` change nothing.
        limits: what they are held against.
        now: Unix time, for a run that should be running; None for one that has ended.
    """
    if not history:
        return Verdict("non_finite", "the run logged nothing, so nothing can be said of it", 0)
    window = list(history)[-WINDOW:]
    for row in window:
        # In fp16 a gradient may overflow; the step is left out then, and nothing is lost.
        bad = [
            name
            for name, value in row.items()
            if isinstance(value, float) and not math.isfinite(value) and name != "grad_norm"
        ]
        if bad:
            return Verdict(
                "non_finite", f"{', '.join(bad)} not finite at step {row['step']}", int(row["step"])
            )
    return _collapsed(window, limits) or (_stalled(window, now) if now else None) or _healthy(window, limits)


def onset(history: Sequence[Mapping[str, Any]], limits: CollapseThresholds) -> int:
    """The step that the window begins at which first showed what the newest rows show: later states are lost.

    Args:
        history: all rows, the newest of which are not healthy.
        limits: what they are held against.
    """
    end = len(history)
    while end > WINDOW and not judge(history[end - 1 - WINDOW : end - 1], limits).healthy:
        end -= 1
    return int(history[max(0, end - WINDOW)]["step"])


def _collapsed(window: Sequence[Mapping[str, Any]], limits: CollapseThresholds) -> Verdict | None:
    if limits.outputs is None or _early(window, limits):
        return None
    step = int(window[-1]["step"])
    for direction in DIRECTIONS:
        kd, kld, told = (
            median(row[f"{name}_{direction}"] for row in window) for name in ("kd", "kld", "information")
        )
        silent = told < ZERO * limits.largest_information and kld < FOLLOWED * limits.largest_entropy
        if min(kd, kld) >= limits.zero and not silent:
            continue
        # The entropy, what KD is above KLD, tells which collapse it is.
        fell = f"KD {direction} is {kd:.3g}, KLD {kld:.3g}, the teacher tells {told:.3g} nats of a clip"
        if kd - kld < ONE_HOT_ENTROPY * limits.largest_entropy:
            return Verdict("one_hot", f"{fell}: its outputs turned one-hot (is centering off?)", step)
        return Verdict("constant", f"{fell}: its output is the same for every clip", step)
    return None


def _early(window: Sequence[Mapping[str, Any]], limits: CollapseThresholds) -> bool:
    return len(window) < WINDOW or int(window[0]["step"]) <= limits.grace


def _stalled(window: Sequence[Mapping[str, Any]], now: float) -> Verdict | None:
    """Silence that is long, and long for this run."""
    times = [row["time"] for row in window]
    usual = median(b - a for a, b in pairwise(times)) if len(times) > 1 else 0.0
    silent = now - times[-1]
    if silent <= max(STALL_SECONDS, STALL_INTERVALS * usual):
        return None
    step = int(window[-1]["step"])
    return Verdict("stalled", f"no numbers for {silent / 60:.0f} minutes, since step {step}", step)


def _healthy(window: Sequence[Mapping[str, Any]], limits: CollapseThresholds) -> Verdict:
    step = int(window[-1]["step"])
    if limits.outputs is None:
        return Verdict("healthy", "nothing is distilled; the objective stays finite", step)
    if _early(window, limits):
        return Verdict("healthy", "too early to judge the distillation; the objective stays finite", step)
    kld, told = (
        min(median(row[f"{name}_{d}"] for row in window) for d in DIRECTIONS)
        for name in ("kld", "information")
    )
    alive = f"KLD stays above {kld:.3g}, and the teachers tell at least {told:.3g} nats of a clip"
    return Verdict("healthy", alive, step)
