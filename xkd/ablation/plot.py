"""Figures of ablations, in the report's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from xkd.ablation.result import Result
from xkd.ablation.watch import FRACTIONS, SIGNALS, Observed, points, scored_columns
from xkd.report.plots.scores import ENCODER_COLORS, PAPER_COLOR
from xkd.report.plots.training import COLORS, DASHED, GRAY, panels

_ROW_HEIGHT = 0.34


def differences(result: Result, titles: Sequence[str]) -> Figure:
    """Plot a panel per column: the differences with their intervals, and the paper's.

    Args:
        titles: of the rows.
    """
    height = 1.1 + _ROW_HEIGHT * len(result.rows)
    figure, axes = panels(1, len(result.columns), height, sharey=True)
    for number, (panel, column) in enumerate(zip(axes, result.columns, strict=True)):
        panel.axvline(0, color=GRAY, linewidth=1, linestyle=DASHED)
        for place, row in enumerate(result.rows):
            cell = row.cells[number]
            if cell.difference:
                d = cell.difference
                panel.plot([d.low, d.high], [place] * 2, color=ENCODER_COLORS["teacher"], linewidth=1.2)
                panel.plot(d.mean, place, "o", color=ENCODER_COLORS["teacher"], markersize=5)
            for change in cell.paper_differences:
                if change is not None:
                    panel.plot(change, place, "D", color=PAPER_COLOR, markersize=4, markerfacecolor="none")
        panel.plot(
            [], [], "o", color=ENCODER_COLORS["teacher"], markersize=5, label="measured, with interval"
        )
        panel.plot([], [], "D", color=PAPER_COLOR, markersize=4, markerfacecolor="none", label="paper")
        panel.set_title(column.measured.title)
        panel.set_xlabel("difference in points")
    axes[0].set_yticks(range(len(titles)), titles)
    axes[0].set_ylim(len(titles) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def schedule(result: Result) -> Figure:
    """Plot a panel per column: scores over the epochs, a line per encoder."""
    figure, axes = panels(1, len(result.columns), height=3.0)
    for panel, number in zip(axes, range(len(result.columns)), strict=True):
        for role, color in ((role, ENCODER_COLORS[role]) for role in result.table.encoders):
            found = [
                (row.row.epoch or result.epochs, row.cells[number])
                for row in result.rows
                if row.row.role == role
            ]
            known = [(epoch, cell) for epoch, cell in found if not math.isnan(cell.mean)]
            if known:
                epochs, cells = zip(*known, strict=True)
                errors = [cell.std or 0.0 for cell in cells]
                panel.errorbar(epochs, [c.mean for c in cells], errors, color=color, capsize=2, label=role)
        panel.set_xlabel("epochs")
        panel.set_ylabel("top-1, %")
        panel.legend()
    return figure


def early_signals(runs: Sequence[Observed]) -> Figure:
    """Plot scores over early signals, a point per run: a row per signal, its panels by column and time."""
    shown = [(column, fraction) for column in scored_columns(runs) for fraction in FRACTIONS]
    figure, axes = panels(len(SIGNALS), len(shown), height=2.1 * len(SIGNALS))
    places = ((name, *each) for name in SIGNALS for each in shown)
    for panel, (name, column, fraction) in zip(axes, places, strict=True):
        found = points(runs, name, column, fraction)
        color = COLORS[column.modality]
        panel.scatter([x for x, _ in found], [y for _, y in found], s=9, color=color, alpha=0.7)
        panel.set_title(f"{column.modality}, {name}", fontsize="small")
        panel.set_xlabel(f"after {fraction:.0%} of the schedule")
        panel.set_ylabel(f"{column.dataset_title}, top-1, %")
    return figure
