"""What the verdict on a run rests on: each signal at the end and at its lowest, with its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from xkd.config.pretrain import WINDOW
from xkd.model.terms import DIRECTIONS, INFORMATION, KD, KLD, TEACHER_ENTROPY
from xkd.monitor.collapse import ZERO, CollapseThresholds, measure
from xkd.report.tables import Line
from xkd.rundir import Row

SIGNAL_HEAD = (
    "Median of ten rows, in nats",
    "At the end",
    "Lowest after the warm-up",
    "at step",
    "Limit",
    "Largest possible",
)

NEARLY_UNIFORM = 0.9
"""Share of ln K above which a teacher's entropy is worth a remark."""


def signal_lines(history: Sequence[Row], thresholds: CollapseThresholds) -> list[Line]:
    """Return a row of `SIGNAL_HEAD` for each signal; none if the history is too short, or has no signals."""
    fields = [term[direction] for term in (KD, KLD, INFORMATION) for direction in DIRECTIONS]
    rows = [
        row
        for row in history
        if row["step"] > thresholds.grace_steps
        and all(math.isfinite(row.get(field, math.nan)) for field in fields)
    ]
    windows = [rows[end - WINDOW : end] for end in range(WINDOW, len(rows) + 1)]
    if not windows:
        return []
    lines = []
    for signals in zip(*(measure(window, thresholds) for window in windows), strict=True):
        last = signals[-1]
        values = [signal.value for signal in signals]
        lowest = min(range(len(values)), key=values.__getitem__)
        direction = last.direction.replace("_to_", " \N{RIGHTWARDS ARROW} ")
        steps = f"{windows[lowest][0]['step']}\N{EN DASH}{windows[lowest][-1]['step']}"
        shown = (last.value, values[lowest], ZERO * last.largest, last.largest)
        end, low, limit, largest = (f"{value:.3g}" for value in shown)
        lines.append(Line(f"{last.name}, {direction}", [end, low, steps, limit, largest]))
    return lines


def drift(history: Sequence[Row], thresholds: CollapseThresholds) -> str:
    """Return a remark if the teachers' outputs end nearly uniform, else "" (docs/collapse.md)."""
    last, out_dim = history[-WINDOW:], thresholds.out_dim
    if out_dim is None or len(last) < WINDOW:
        return ""
    medians = [median(row.get(TEACHER_ENTROPY[d], math.nan) for row in last) for d in DIRECTIONS]
    shares = [entropy / math.log(out_dim) for entropy in medians]
    if not max(shares) > NEARLY_UNIFORM:
        return ""
    first, second = (f"{100 * share:.0f}" for share in shares)
    return (
        "However, the teachers' outputs are nearly uniform at the end, so clips hardly differ in them: their "
        f"entropy is {first} and {second} % of the largest possible. Small models pass through such a phase, "
        "and a longer run may leave it; until then, the students learn little across the modalities."
    )
