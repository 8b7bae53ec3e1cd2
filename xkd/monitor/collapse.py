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
from operator import attrgetter
from statistics import median
from typing import Any, NamedTuple

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

    @staticmethod
    def of_run(config: PretrainConfig, info: Mapping[str, Any]) -> CollapseThresholds:
        """Return the thresholds of a run by its settings and its ``run.json``."""
        steps = info.get("steps", config.optim.epochs)  # of all epochs; the file may be incomplete
        return CollapseThresholds.from_config(config, steps // config.optim.epochs)

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


class Signal(NamedTuple):
    """A signal of one direction of distillation: its median over some rows."""

    name: str
    """KD, KLD or information."""
    direction: str
    value: float
    """Nats."""
    largest: float
    """The entropy or the information that is the largest possible, in nats; KD and KLD may exceed it."""

    @property
    def share(self) -> float:
        """The value as a share of the largest possible."""
        return self.value / self.largest

    @property
    def is_zero(self) -> bool:
        """Whether it counts as zero."""
        return self.share < ZERO

    def __str__(self) -> str:
        """Return the value and its share, with two digits."""
        percent = 100 * self.share
        return f"{self.value:.3g} nats ({percent:{'.0f' if percent >= 10 else '.2g'}} %)"


def judge(history: Collection[Mapping[str, Any]], thresholds: CollapseThresholds) -> Verdict:
    """Return the verdict on the newest `WINDOW` rows of metrics.jsonl, oldest first.

    They have ``step``, ``loss`` and, per direction, ``kd_*``, ``kld_*`` and ``information_*``.
    """
    if not history:
        return Verdict("undecided", "the run logged no metrics", 0)
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

    The history has all rows; the newest are those of a failed run.
    """
    end = len(history)
    while end > WINDOW and judge(history[end - 1 - WINDOW : end - 1], thresholds).failed:
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


def measure(window: Sequence[Mapping[str, Any]], thresholds: CollapseThresholds) -> list[Signal]:
    """Return the signals of both directions over some rows that have them."""
    limits = {
        "KD": (KD, thresholds.largest_entropy),
        "KLD": (KLD, thresholds.largest_entropy),
        "information": (INFORMATION, thresholds.largest_information),
    }
    return [
        Signal(name, direction, median(row[fields[direction]] for row in window), largest)
        for direction in DIRECTIONS
        for name, (fields, largest) in limits.items()
    ]


def _judge_distillation(window: Sequence[Mapping[str, Any]], thresholds: CollapseThresholds) -> Verdict:
    first, step = int(window[0]["step"]), int(window[-1]["step"])
    if thresholds.out_dim is None:
        reason = "nothing is distilled, so nothing can collapse; all metrics are finite"
        return Verdict("healthy", reason, step)
    if len(window) < WINDOW or first <= thresholds.grace_steps:
        count = sum(row["step"] > thresholds.grace_steps for row in window)
        warmup = f" after the warm-up of {thresholds.grace_steps} steps" if thresholds.grace_steps else ""
        rule = f"that takes {WINDOW} logged rows{warmup}"
        return Verdict("undecided", f"too early to judge the distillation: {rule}, so far {count}", step)
    rows = f"the last {WINDOW} logged rows (steps {first} to {step})"
    found = measure(window, thresholds)
    for direction in DIRECTIONS:
        kd, kld, information = (signal for signal in found if signal.direction == direction)
        uninformative = information.is_zero and kld.share < MATCHED
        if kd.is_zero or kld.is_zero or uninformative:
            numbers = f"in {rows}, median KD {direction} is {kd}, KLD {kld}, information {information}"
            if kd.value - kld.value < ONE_HOT_ENTROPY * thresholds.largest_entropy:  # the teacher's entropy
                reason = "the teacher's outputs became one-hot (is centering disabled?)"
                return Verdict("one_hot", f"{numbers}: {reason}", step)
            return Verdict("constant", f"{numbers}: the teacher's output is the same for every clip", step)
    kld, information = (
        min((signal for signal in found if signal.name == name), key=attrgetter("value"))
        for name in ("KLD", "information")
    )
    numbers = f"median KLD is at least {kld} and information at least {information} in both directions"
    if information.is_zero:
        reason = "untrained teachers have as little information; it is judged once KLD is below"
        return Verdict("undecided", f"in {rows}, {numbers}: {reason} {100 * MATCHED:.0f} %", step)
    return Verdict("healthy", f"in {rows}, {numbers}; below {100 * ZERO:.0f} % would be a collapse", step)
