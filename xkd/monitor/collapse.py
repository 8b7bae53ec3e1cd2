"""Collapse detection: the verdict on a run (section B.5, Figure S3).

KD = teacher entropy + KLD. In a one-hot collapse all three go to 0; in a constant collapse (the same output
for every clip) KLD alone does. A projector with norms prevents its student from matching a uniform teacher,
so that KLD stays positive: a collapse is therefore also detected by the information, the mutual information
between clip and teacher output (`xkd.monitor.signals.information`). Each signal is judged by its median over
a window, because single steps spike. docs/collapse.md lists the runs that the thresholds were set on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from xkd.config import PretrainConfig
from xkd.config.pretrain import WINDOW
from xkd.model.terms import DIRECTIONS, INFORMATION, KD, KLD
from xkd.rundir import Verdict

ZERO = 0.02
"""KD or KLD counts as zero below this share of ln K, the largest possible entropy; information below this
share of ln(batch size), the largest possible information."""
MATCHED = 0.5
"""Zero information counts as a collapse only when KLD is below this share of ln K: an untrained teacher also
gives nearly the same output for every clip, but its student is far from it."""
ONE_HOT_ENTROPY = 0.1
"""A collapse is one-hot when the teacher's entropy is below this share of ln K, otherwise constant."""
MAX_GRACE_STEPS = 500
"""Limit on the steps of warm-up without a collapse verdict: a warm-up of a day must not hide a collapse."""
STALL_SECONDS = 600.0
"""A run has stalled when it logs nothing for this long,"""
STALL_INTERVALS = 20
"""and for this many of its usual intervals between rows."""


@dataclass(frozen=True)
class CollapseThresholds:
    """The limits that the metrics of a run are compared with."""

    out_dim: int | None
    """K, the width of the projector's output; None: nothing is distilled, so nothing can collapse."""
    batch_size: int
    grace_steps: int = 0
    """Number of first steps without a collapse verdict."""

    @staticmethod
    def from_config(config: PretrainConfig, steps_per_epoch: int) -> CollapseThresholds:
        """Return the thresholds of a run."""
        warmup = math.ceil(config.optim.warmup_epochs * steps_per_epoch)
        out_dim = config.projector.out_dim if config.loss.distill else None
        return CollapseThresholds(out_dim, config.optim.batch_size, min(warmup, MAX_GRACE_STEPS))

    @property
    def largest_entropy(self) -> float:
        """Ln K in nats; NaN when nothing is distilled."""
        return math.log(self.out_dim) if self.out_dim else math.nan

    @property
    def largest_information(self) -> float:
        """Ln(batch size) in nats; NaN when nothing is distilled."""
        return math.log(self.batch_size) if self.out_dim else math.nan

    @property
    def collapse_threshold(self) -> float:
        """The KD or KLD, in nats, that counts as zero."""
        return ZERO * self.largest_entropy


def judge(history: Collection[Mapping[str, Any]], thresholds: CollapseThresholds) -> Verdict:
    """Return the verdict on the newest `WINDOW` rows of metrics.jsonl, oldest first.

    They have ``step``, ``loss`` and, per direction, ``kd_*``, ``kld_*`` and ``information_*``.
    """
    if not history:
        return Verdict("non_finite", "the run logged no metrics", 0)
    window = list(history)[-WINDOW:]
    for row in window:
        # In fp16 gradients may overflow; such a step is skipped without harm.
        numbers = {name: x for name, x in row.items() if isinstance(x, float) and name != "grad_norm"}
        if bad := [name for name, value in numbers.items() if not math.isfinite(value)]:
            step = int(row["step"])
            return Verdict("non_finite", f"{', '.join(bad)} not finite at step {step}", step)
    return _judge_distillation(window, thresholds)


def find_onset(history: Sequence[Mapping[str, Any]], thresholds: CollapseThresholds) -> int:
    """Return the first step of the earliest window of the current collapse; later states are affected.

    The history has all rows; the newest are not healthy.
    """
    end = len(history)
    while end > WINDOW and not judge(history[end - 1 - WINDOW : end - 1], thresholds).healthy:
        end -= 1
    return int(history[max(0, end - WINDOW)]["step"])


def detect_stall(history: Sequence[Mapping[str, Any]], now: float) -> Verdict | None:
    """Return the verdict "stalled" when a run was silent for too long at the Unix time `now`, else None.

    The history has at least one row with ``step`` and ``time``, oldest first.
    """
    times = [row["time"] for row in history[-WINDOW:]]
    usual_interval = median(b - a for a, b in pairwise(times)) if len(times) > 1 else 0.0
    silence = now - times[-1]
    if silence <= max(STALL_SECONDS, STALL_INTERVALS * usual_interval):
        return None
    step = int(history[-1]["step"])
    return Verdict("stalled", f"no metrics for {silence / 60:.0f} minutes, since step {step}", step)


def _judge_distillation(window: Sequence[Mapping[str, Any]], thresholds: CollapseThresholds) -> Verdict:
    step = int(window[-1]["step"])
    if thresholds.out_dim is None:
        return Verdict("healthy", "nothing is distilled; all metrics are finite", step)
    if len(window) < WINDOW or int(window[0]["step"]) <= thresholds.grace_steps:
        return Verdict("healthy", "too early to judge the distillation; all metrics are finite", step)
    least_kld = least_information = math.inf
    for direction in DIRECTIONS:
        kd, kld, information = (
            median(row[fields[direction]] for row in window) for fields in (KD, KLD, INFORMATION)
        )
        uninformative = (
            information < ZERO * thresholds.largest_information and kld < MATCHED * thresholds.largest_entropy
        )
        if min(kd, kld) < thresholds.collapse_threshold or uninformative:
            numbers = (
                f"KD {direction} is {_nats(kd, thresholds.largest_entropy)}, "
                f"KLD {_nats(kld, thresholds.largest_entropy)}, "
                f"information {_nats(information, thresholds.largest_information)}"
            )
            if kd - kld < ONE_HOT_ENTROPY * thresholds.largest_entropy:  # the teacher's entropy
                reason = "the teacher's outputs became one-hot (is centering disabled?)"
                return Verdict("one_hot", f"{numbers}: {reason}", step)
            return Verdict("constant", f"{numbers}: the teacher's output is the same for every clip", step)
        least_kld, least_information = min(least_kld, kld), min(least_information, information)
    reason = (
        f"KLD is at least {_nats(least_kld, thresholds.largest_entropy)} and information at least "
        f"{_nats(least_information, thresholds.largest_information)}"
    )
    if least_information < ZERO * thresholds.largest_information:
        reason += f", which is judged once KLD is below {100 * MATCHED:.0f} %: untrained teachers have little"
    return Verdict("healthy", reason, step)


def _nats(value: float, largest: float) -> str:
    """Return a signal in nats and as a share of its largest value, with two digits."""
    percent = 100 * value / largest
    return f"{value:.3g} nats ({percent:.0f} %)" if percent >= 10 else f"{value:.3g} nats ({percent:.2g} %)"
