"""What a run did over its steps, and how its encoders score, as drawings in the report's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from xkd.config import MODALITIES, other
from xkd.report.tables import ENCODERS, Cell, Table
from xkd.watch.telemetry import Row

WIDTH = 9.2
"""Inches; the report's column at 100 pixels an inch."""
POINTS = 1000
"""Points of a curve; a longer history is thinned."""
COLORS = {"video": "#2166ac", "audio": "#c8611a"}
ENCODER_COLORS = {"teacher": "#1f4e79", "student": "#5b93c7", "random": "#a9adb3", "raw": "#d9dbde"}
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
    figure, axes = _panels(2, 2, height=4.6)
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
    figure, axes = _panels(1, 2, height=2.9, sharey=True)
    top = math.log(out_dim)
    for panel, m in zip(axes, MODALITIES, strict=True):
        direction = f"{m}_to_{other(m)}"
        _curve(panel, history, f"kd_{direction}", "#1b1e23", "KD")
        _curve(panel, history, f"teacher_entropy_{direction}", "#3a8f6a", "teacher entropy")
        _curve(panel, history, f"kld_{direction}", "#b3263a", "KLD")
        panel.axhline(top, color=FAINT, linewidth=1, linestyle=DASHED)
        panel.set_title(f"{m.capitalize()} teacher → {other(m)} student")
        panel.set_xlabel("step")
    _name_level(axes[1], top, f"ln K = {top:.2f}")
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("nats")
    axes[1].legend()
    return figure


def schedule_curves(history: Sequence[Row]) -> Figure:
    """Learning rate, teacher momentum and teacher temperatures."""
    figure, axes = _panels(1, 3, height=2.3)
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


def score_bars(table: Table) -> Figure:
    """Grouped bars: a group per column of the table, a bar per row; gaps where a number is missing."""
    figure, (panel,) = _panels(1, 1, height=3.1)
    width = 0.8 / len(ENCODERS)
    for index, (encoder, title) in enumerate(ENCODERS.items()):
        for group, column in enumerate(table.columns):
            x = group + (index - (len(ENCODERS) - 1) / 2) * width
            cell = table.cell(encoder, column)
            if isinstance(cell, Cell):
                panel.bar(
                    x,
                    cell.mean,
                    width * 0.92,
                    color=ENCODER_COLORS[encoder],
                    yerr=cell.spread,
                    ecolor=INK,
                    error_kw={"elinewidth": 0.9, "capsize": 2},
                )
                above = cell.mean + cell.spread
                panel.annotate(
                    f"{100 * cell.mean:.1f}",
                    (x, above),
                    (0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
            else:
                panel.annotate("?", (x, 0), (0, 3), textcoords="offset points", ha="center", color=FAINT)
        panel.bar(0, 0, color=ENCODER_COLORS[encoder], label=title)
    for group, column in enumerate(table.columns):
        if column in table.chances:
            level, reach = table.chances[column], (group - 0.48, group + 0.48)
            panel.hlines(level, *reach, color=FAINT, linewidth=1, linestyle=DASHED, zorder=3)
    for level in {round(chance, 6) for chance in table.chances.values()}:
        _name_level(panel, level, "chance")
    panel.set_xticks(range(len(table.columns)), [column.title for column in table.columns])
    panel.tick_params(axis="x", length=0)
    panel.grid(visible=False, axis="x")
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.margins(y=0.12)
    panel.set_xlim(-0.5, len(table.columns) - 0.5)
    panel.legend(
        ncols=len(ENCODERS), loc="upper left", bbox_to_anchor=(0, 1.16), borderaxespad=0, handlelength=1
    )
    return figure


def _panels(rows: int, columns: int, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
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


def _name_level(panel: Axes, level: float, name: str) -> None:
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
