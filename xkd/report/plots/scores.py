"""Plots of scores, in the report's style."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import product
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xkd.evaluation.score import Score
from xkd.report.aggregate import ENCODERS, Column, Record
from xkd.report.plots.training import COLORS, DASHED, GRAY, INK, WIDTH, label_line, panels
from xkd.report.tables import Block, Comparison, DatasetTable

ENCODER_COLORS = {"teacher": "#1f4e79", "student": "#5b93c7", "random": "#a9adb3", "raw": "#d9dbde"}
PAPER_COLOR = COLORS["audio"]
MAX_NARROW_CLASSES = 20
"""Classes of a confusion matrix that fits, with its counts, in half the report's width."""
MAX_CLASSES = 60
"""Classes of a confusion matrix that fits in the report's width; with more, only a list is shown."""
CURVES = {"loss": "training loss", "validation": "validation score"}
"""Fields of a fine-tuning's learning curve that are plotted, and their titles."""
_ERROR_BARS: dict[str, Any] = {"ecolor": INK, "error_kw": {"elinewidth": 0.9, "capsize": 2}}


def score_bars(table: DatasetTable) -> Figure:
    """Plot a group of bars per column of the table, a bar per row; "?" marks a failed task."""
    figure, (panel,) = panels(1, 1, height=3.1)
    width = 0.8 / len(ENCODERS)
    for index, (encoder, title) in enumerate(table.encoders.items()):
        panel.bar(0, 0, color=ENCODER_COLORS[encoder], label=title)
        for group, column in enumerate(table.tasks):
            x = group + (index - (len(table.encoders) - 1) / 2) * width
            _score_bar(panel, x, width * 0.92, table[encoder, column])
    for group, column in enumerate(table.tasks):
        if column in table.chances:
            extent = (group - 0.48, group + 0.48)
            panel.hlines(table.chances[column], *extent, color=GRAY, linewidth=1, linestyle=DASHED, zorder=3)
    for level in {round(table.chances[column], 4) for column in table.tasks if column in table.chances}:
        label_line(panel, level, "chance")
    _categories(panel.xaxis, [fill(column.title, 16, break_on_hyphens=False) for column in table.tasks])
    panel.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    panel.margins(y=0.12)
    panel.set_xlim(-0.5, len(table.tasks) - 0.5)
    panel.legend(
        ncols=len(ENCODERS), loc="upper left", bbox_to_anchor=(0, 1.16), borderaxespad=0, handlelength=1
    )
    return figure


def _score_bar(panel: Axes, x: float, width: float, record: Record) -> None:
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}
    if record.mean is not None:
        color = ENCODER_COLORS[record.encoder]
        panel.bar(x, record.mean, width, color=color, yerr=record.error, **_ERROR_BARS)
        panel.annotate(f"{record.mean:.1f}", (x, record.mean + record.error), (0, 2), fontsize=8, **style)
    elif record.failed:
        panel.annotate("?", (x, 0), (0, 3), color=GRAY, **style)


def confusions(scores: Sequence[Score]) -> Counter[tuple[str, str]]:
    """Count test clips by true and predicted class, over all folds."""
    counts: Counter[tuple[str, str]] = Counter()
    for score in scores:
        for label, row in score.confusion.items():
            counts.update({(label, predicted): count for predicted, count in row.items()})
    return counts


def confusion_matrix(scores: Sequence[Score]) -> Figure:
    """Plot the share of each class's test clips (rows) by predicted class (columns), up to `MAX_CLASSES`."""
    classes, counts = scores[0].classes, confusions(scores)
    matrix = np.array([[counts[label, predicted] for predicted in classes] for label in classes], float)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    narrow = len(classes) <= MAX_NARROW_CLASSES
    size, font = (WIDTH / 2, 7.5) if narrow else (WIDTH, 6.5)
    figure = Figure(figsize=(size, size), layout="constrained")
    panel = figure.add_subplot()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    _categories(panel.xaxis, classes, rotation=90, fontsize=font)
    _categories(panel.yaxis, classes, fontsize=font)
    panel.set_xlabel("predicted class")
    panel.set_ylabel("true class")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        if narrow:
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{matrix[row, column]:.0f}"
            panel.text(column, row, text, ha="center", va="center", color=color, fontsize=6.5)
    return figure


LearningCurve = tuple[Score, list[float], list[float]]
"""A fine-tuning with its epochs and the values there."""


def learning_curves(table: DatasetTable) -> dict[tuple[Column, str], list[LearningCurve]]:
    """Return the fine-tunings by column and by field of `CURVES`; those of one epoch have no curve."""
    curves: dict[tuple[Column, str], list[LearningCurve]] = {}
    for column, field in product(table.tasks, CURVES):
        for score in (score for record in table.column(column) for score in record.scores):
            rows = [row for row in score.curve if field in row]
            if len(rows) > 1:
                curve = [row["epoch"] for row in rows], [row[field] for row in rows]
                curves.setdefault((column, field), []).append((score, *curve))
    return curves


def finetuning_curves(table: DatasetTable) -> Figure:
    """Plot the loss and, where it selected the epoch, the validation score; a line per encoder and fold."""
    curves = learning_curves(table)
    columns = min(2, len(curves))
    height = math.ceil(len(curves) / columns)
    figure, axes = panels(height, columns, 2.6 * height)
    for panel in axes[len(curves) :]:
        panel.set_visible(False)
    for panel, ((column, field), lines) in zip(axes, curves.items(), strict=False):
        handles = {}
        for score, epochs, values in lines:
            name, folds = ENCODERS[score.encoder], column.spec.folds
            label = f"{name}, fold {score.fold}" if folds > 1 else name
            (handles[name],) = panel.plot(epochs, values, color=ENCODER_COLORS[score.encoder], label=label)
        panel.set_title(f"{column.title.partition(' (')[0]}: {CURVES[field]}")
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if field == "validation":
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.legend(handles.values(), handles)
    return figure


def comparison_bars(comparison: Comparison, block: Block) -> Figure:
    """Plot a panel per column with a bar per row, and a diamond at the paper's number."""
    rows = comparison.rows(block.columns)
    figure, axes = panels(1, len(block.columns), 0.9 + 0.27 * len(rows))
    titles = [f"{group.title}, {encoder}" for group, encoder in rows]
    for number, (panel, column, title) in enumerate(zip(axes, block.columns, block.head, strict=True)):
        for y, (group, encoder) in enumerate(rows):
            record = comparison[group, encoder, column]
            if not record.complete or record.mean is None:
                continue
            color = ENCODER_COLORS[encoder]
            panel.barh(y, record.mean, height=0.74, color=color, xerr=record.std, **_ERROR_BARS)
            panel.text(1, y, f"{record.mean:.1f}", va="center", color="white", fontsize=8)
            if record.paper:
                panel.plot(record.paper.percent, y, "D", color=PAPER_COLOR, markersize=5)
        _categories(panel.yaxis, [""] * len(rows) if number else titles)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.xaxis.set_major_locator(MaxNLocator(3))
        panel.xaxis.set_major_formatter(PercentFormatter(decimals=0))
        panel.set_title(title.replace(", ", ",\n"), fontsize=8.5)
    return figure


def _categories(axis: Axis, names: Sequence[str], **style: Any) -> None:
    """Label the places 0, 1, ... of an axis, without ticks and grid lines."""
    axis.set_ticks(range(len(names)), names, **style)
    axis.set_tick_params(length=0)
    axis.grid(visible=False)
