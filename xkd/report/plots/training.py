"""Plots of training metrics over steps, in the report's style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from xkd.config import MODALITIES, other
from xkd.model.terms import (
    ALIGN,
    INFORMATION,
    KD,
    KLD,
    RECONSTRUCT,
    TEACHER_ENTROPY,
    TEACHER_TEMPERATURE,
    direction,
)
from xkd.monitor.collapse import ZERO, CollapseThresholds
from xkd.monitor.metrics import KNN, VALIDATION_LOSS
from xkd.rundir import Row

T = TypeVar("T")

WIDTH = 9.2
"""Inches; the report's column at 100 pixels per inch."""
MAX_POINTS = 1000
"""Points of a curve; a longer history is thinned."""
INK, GRAY, GREEN, RED, PURPLE = "#30343a", "#8a9099", "#3a8f6a", "#b3263a", "#6b4fa0"
COLORS = {"video": "#2166ac", "audio": "#c8611a"}
DASHED = (0, (4, 3))

Curves = Mapping[str, tuple[str, str]]
"""Label and color of the fields that share a panel."""
_LOSSES: dict[str, Curves] = {
    "Objective": {"loss": ("objective", INK)},
    "Reconstruction": {RECONSTRUCT[m]: (m, COLORS[m]) for m in MODALITIES},
    "Alignment (MMD between the modalities)": {
        ALIGN["student"]: ("students", "#9a7fc4"),
        ALIGN["teacher"]: ("teachers", "#3d3260"),
        **{ALIGN[direction(m)]: (f"{m} teacher, {other(m)} student", COLORS[m]) for m in MODALITIES},
    },
    "Distillation (KD)": {KD[direction(m)]: (f"{m} → {other(m)}", COLORS[other(m)]) for m in MODALITIES},
}
_PROBES: dict[str, Curves] = {
    "Objective": {VALIDATION_LOSS: ("split val", PURPLE), "loss": ("training clips", GRAY)},
    "Accuracy of nearest neighbors": {KNN[m]: (m, COLORS[m]) for m in MODALITIES},
}
_SCHEDULES: dict[str, Curves] = {
    "Learning rate": {"lr": ("learning rate", INK)},
    "Teacher momentum": {"momentum": ("momentum", INK)},
    "Teacher temperature": {TEACHER_TEMPERATURE[m]: (m, COLORS[m]) for m in MODALITIES},
}
_DISTILLATION: dict[str, Curves] = {
    f"{m.capitalize()} teacher → {other(m)} student": {
        KD[direction(m)]: ("KD", INK),
        TEACHER_ENTROPY[direction(m)]: ("teacher entropy", GREEN),
        KLD[direction(m)]: ("KLD", RED),
    }
    for m in MODALITIES
}
_INFORMATION: dict[str, Curves] = {
    f"Information of the {m} teacher": {INFORMATION[direction(m)]: ("information", PURPLE)}
    for m in MODALITIES
}


def loss_curves(history: Sequence[Row]) -> Figure:
    """Plot the objective, and its terms by modality, pair and direction."""
    figure, axes = panels(2, 2, height=4.6)
    _plot(axes, history, _LOSSES)
    return figure


def distillation_curves(history: Sequence[Row], thresholds: CollapseThresholds) -> Figure:
    """Plot KD, KLD, the teacher's entropy and its information per direction.

    Lines mark the largest possible values, and the limits below which a value counts as zero.
    """
    largest_entropy, largest = thresholds.largest_entropy, thresholds.largest_information
    logged = any(field in row for row in history for field in INFORMATION.values())
    curves = _DISTILLATION | (_INFORMATION if logged else {})
    figure, axes = panels(len(curves) // 2, 2, height=2.7 * len(curves) / 2)
    _plot(axes, history, curves)
    for index, panel in enumerate(axes):
        top, name = (largest_entropy, "ln K") if index < 2 else (largest, "ln batch")
        panel.axhline(top, color=GRAY, linewidth=1, linestyle=DASHED)
        panel.axhline(ZERO * top, color=RED, linewidth=1, linestyle=DASHED)
        label_line(panel, top, f"{name} = {top:.2f}")
        label_line(panel, ZERO * top, "limit")
        panel.set_ylim(bottom=0)
        panel.set_ylabel("nats")
    return figure


def probes(history: Sequence[Row]) -> list[Row]:
    """Return the rows with an evaluation while training (`run.probe_every`)."""
    return [row for row in history if row.keys() & {VALIDATION_LOSS, *KNN.values()}]


def probe_curves(history: Sequence[Row]) -> Figure:
    """Plot the objective on both splits and the accuracy of nearest neighbors, where they were measured."""
    figure, axes = panels(1, 2, height=2.5)
    _plot(axes, probes(history), _PROBES)
    axes[0].set_visible(any(VALIDATION_LOSS in row for row in history))
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def schedule_curves(history: Sequence[Row]) -> Figure:
    """Plot the learning rate, teacher momentum and teacher temperatures."""
    figure, axes = panels(1, 3, height=2.3)
    _plot(axes, history, _SCHEDULES)
    for panel in axes:
        panel.yaxis.set_major_formatter("{x:g}")
    return figure


def panels(rows: int, columns: int, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of the report's width and its panels, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, hspace=0.04)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    return figure, list(axes.flat)


def _plot(axes: Sequence[Axes], history: Sequence[Row], curves: Mapping[str, Curves]) -> None:
    """Plot the logged fields of each panel over steps; rows without a finite value leave a gap."""
    rows = thin(history, MAX_POINTS)
    steps = [row["step"] for row in rows]
    for panel, (title, fields) in zip(axes, curves.items(), strict=True):
        logged = [field for field in fields if any(field in row for row in history)]
        panel.set_visible(bool(logged))
        for field, (label, color) in fields.items():
            if field in logged:
                panel.plot(steps, [row.get(field, math.nan) for row in rows], color=color, label=label)
        if logged and len(fields) > 1:
            panel.legend()
        panel.set_title(title)
        panel.set_xlabel("step")


def thin(history: Sequence[T], count: int) -> list[T]:
    """Return at most `count` evenly spaced items, including the first and the last."""
    if len(history) <= count:
        return list(history)
    return [history[round(index * (len(history) - 1) / (count - 1))] for index in range(count)]


def label_line(panel: Axes, level: float, label: str) -> None:
    """Write a label at the right end of a horizontal line."""
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    panel.annotate(label, (1, level), (4, 0), **place, va="center", color=GRAY, fontsize=8)
