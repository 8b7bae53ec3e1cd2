"""Plots of training metrics over steps, in the report's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xkd.config import MODALITIES, other
from xkd.model.terms import ALIGN, KD, KLD, RECONSTRUCT, TEACHER_ENTROPY, TEACHER_TEMPERATURE, direction
from xkd.rundir import Row

WIDTH = 9.2
"""Inches; the report's column at 100 pixels per inch."""
MAX_POINTS = 1000
"""Points of a curve; a longer history is thinned."""
INK, GRAY, GREEN, RED = "#30343a", "#8a9099", "#3a8f6a", "#b3263a"
COLORS = {"video": "#2166ac", "audio": "#c8611a"}
ALIGNED = {
    "student": ("students", "#9a7fc4"),
    "teacher": ("teachers", "#3d3260"),
    "video_to_audio": ("video teacher, audio student", COLORS["video"]),
    "audio_to_video": ("audio teacher, video student", COLORS["audio"]),
}
"""Title and color of the pairs that `loss.align_pairs` may align."""
DASHED = (0, (4, 3))


def loss_curves(history: Sequence[Row]) -> Figure:
    """Plot the objective, and its terms by modality, pair and direction."""
    figure, axes = panels(2, 2, height=4.6)
    _plot(axes[0], history, "loss", INK)
    for m in MODALITIES:
        _plot(axes[1], history, RECONSTRUCT[m], COLORS[m], m)
        _plot(axes[3], history, KD[direction(other(m))], COLORS[m], f"{other(m)} → {m}")
    for pair, (label, color) in ALIGNED.items():
        _plot(axes[2], history, ALIGN[pair], color, label)
    titles = "Objective", "Reconstruction", "Alignment (MMD between the modalities)", "Distillation (KD)"
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title)
    for panel in axes[1:]:
        if panel.lines:
            panel.legend()
    for panel in axes[2:]:
        panel.set_xlabel("step")
    return figure


def distillation_curves(history: Sequence[Row], out_dim: int) -> Figure:
    """Plot KD, KLD and the teacher's entropy per direction, with the largest possible entropy, ln K."""
    figure, axes = panels(1, 2, height=2.9, sharey=True)
    largest = math.log(out_dim)
    for panel, m in zip(axes, MODALITIES, strict=True):
        _plot(panel, history, KD[direction(m)], INK, "KD")
        _plot(panel, history, TEACHER_ENTROPY[direction(m)], GREEN, "teacher entropy")
        _plot(panel, history, KLD[direction(m)], RED, "KLD")
        panel.axhline(largest, color=GRAY, linewidth=1, linestyle=DASHED)
        panel.set_title(f"{m.capitalize()} teacher → {other(m)} student")
        panel.set_xlabel("step")
    label_line(axes[1], largest, f"ln K = {largest:.2f}")
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("nats")
    axes[1].legend()
    return figure


def schedule_curves(history: Sequence[Row]) -> Figure:
    """Plot the learning rate, teacher momentum and teacher temperatures."""
    figure, axes = panels(1, 3, height=2.3)
    _plot(axes[0], history, "lr", INK)
    _plot(axes[1], history, "momentum", INK)
    for m in MODALITIES:
        _plot(axes[2], history, TEACHER_TEMPERATURE[m], COLORS[m], m)
    axes[2].legend()
    for panel, title in zip(axes, ("Learning rate", "Teacher momentum", "Teacher temperature"), strict=True):
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.yaxis.set_major_formatter("{x:g}")
    return figure


def panels(rows: int, columns: int, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of the report's width and its panels, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, hspace=0.04)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    return figure, list(axes.flat)


def _plot(panel: Axes, history: Sequence[Row], field: str, color: str, label: str | None = None) -> None:
    """Plot a field, if it was logged, over steps; rows without a finite value leave a gap."""
    if any(field in row for row in history):
        rows = thin(history, MAX_POINTS)
        values = [row.get(field, math.nan) for row in rows]
        panel.plot([row["step"] for row in rows], values, color=color, label=label)


def thin(history: Sequence[Row], count: int) -> list[Row]:
    """Return at most `count` evenly spaced rows, including the first and the last."""
    if len(history) <= count:
        return list(history)
    return [history[round(index * (len(history) - 1) / (count - 1))] for index in range(count)]


def label_line(panel: Axes, level: float, label: str) -> None:
    """Write a label at the right end of a horizontal line."""
    panel.annotate(
        label,
        (1, level),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        color=GRAY,
        fontsize=8,
    )
