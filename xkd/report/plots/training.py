"""What a run did over its steps, as drawings in the report's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xkd.config import MODALITIES, other
from xkd.rundir import Row

WIDTH = 9.2
"""Inches; the report's column at 100 pixels an inch."""
POINTS = 1000
"""Points of a curve; a longer history is thinned."""
COLORS = {"video": "#2166ac", "audio": "#c8611a"}
ALIGNED = {
    "student": ("students", "#9a7fc4"),
    "teacher": ("teachers", "#3d3260"),
    "video_to_audio": ("video teacher, audio student", "#2166ac"),
    "audio_to_video": ("audio teacher, video student", "#c8611a"),
}
"""What `loss.align_pairs` may align, with its name and color."""
INK, FAINT = "#30343a", "#8a9099"
DASHED = (0, (4, 3))


def loss_curves(history: Sequence[Row]) -> Figure:
    """The objective, reconstruction per modality, alignment of students and teachers, distillation."""
    figure, axes = panels(2, 2, height=4.6)
    _curve(axes[0], history, "loss", INK)
    axes[0].set_title("Objective")
    for m in MODALITIES:
        _curve(axes[1], history, f"reconstruct_{m}", COLORS[m], m)
        _curve(axes[3], history, f"kd_{other(m)}_to_{m}", COLORS[m], f"{other(m)} → {m}")
    axes[1].set_title("Reconstruction")
    for pair, (title, color) in ALIGNED.items():
        _curve(axes[2], history, f"align_{pair}", color, title)
    axes[2].set_title("Alignment (MMD between the modalities)")
    axes[3].set_title("Distillation (KD)")
    for panel in axes[1:]:
        if panel.lines:
            panel.legend()
    for panel in axes[2:]:
        panel.set_xlabel("step")
    return figure


def distillation_curves(history: Sequence[Row], out_dim: int) -> Figure:
    """KD, KLD and the teacher's entropy per direction, with the largest possible entropy ln K."""
    figure, axes = panels(1, 2, height=2.9, sharey=True)
    top = math.log(out_dim)
    for panel, m in zip(axes, MODALITIES, strict=True):
        direction = f"{m}_to_{other(m)}"
        _curve(panel, history, f"kd_{direction}", "#1b1e23", "KD")
        _curve(panel, history, f"teacher_entropy_{direction}", "#3a8f6a", "teacher entropy")
        _curve(panel, history, f"kld_{direction}", "#b3263a", "KLD")
        panel.axhline(top, color=FAINT, linewidth=1, linestyle=DASHED)
        panel.set_title(f"{m.capitalize()} teacher → {other(m)} student")
        panel.set_xlabel("step")
    name_level(axes[1], top, f"ln K = {top:.2f}")
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("nats")
    axes[1].legend()
    return figure


def schedule_curves(history: Sequence[Row]) -> Figure:
    """Learning rate, teacher momentum and teacher temperatures."""
    figure, axes = panels(1, 3, height=2.3)
    _curve(axes[0], history, "lr", INK)
    _curve(axes[1], history, "momentum", INK)
    for m in MODALITIES:
        _curve(axes[2], history, f"teacher_temperature_{m}", COLORS[m], m)
    axes[2].legend()
    for panel, title in zip(axes, ("Learning rate", "Teacher momentum", "Teacher temperature"), strict=True):
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.yaxis.set_major_formatter("{x:g}")
    return figure


def panels(rows: int, columns: int, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of the report's width and its panels, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, hspace=0.04)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    return figure, list(axes.flat)


def _curve(panel: Axes, history: Sequence[Row], name: str, color: str, label: str | None = None) -> None:
    """Plot one field, if there is such, over steps; rows without a finite value of it leave a gap."""
    if not any(name in row for row in history):
        return
    thinned = thin(history, POINTS)
    values = [row.get(name, math.nan) for row in thinned]
    panel.plot([row["step"] for row in thinned], values, color=color, label=label)


def thin(history: Sequence[Row], count: int) -> list[Row]:
    """At most `count` evenly spaced rows, the first and the last among them."""
    if len(history) <= count:
        return list(history)
    return [history[round(index * (len(history) - 1) / (count - 1))] for index in range(count)]


def name_level(panel: Axes, level: float, name: str) -> None:
    """Write a dashed line's name at its right end."""
    panel.annotate(
        name,
        (1, level),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        color=FAINT,
        fontsize=8,
    )
