"""How encoders score, as drawings in the report's style."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xkd.evaluate.score import EvaluatedEncoder, Score
from xkd.report.comparison import Block, Comparison
from xkd.report.plots.training import DASHED, FAINT, INK, WIDTH, name_level, panels
from xkd.report.tables import ENCODERS, Cell, Column, Table

ENCODER_COLORS = {"teacher": "#1f4e79", "student": "#5b93c7", "random": "#a9adb3", "raw": "#d9dbde"}
PAPER_COLOR = "#c8611a"
NARROW = 20
"""Classes of a confusion matrix that half the report's width holds, with its numbers."""
CURVES = {"loss": "loss", "validation": "validation clips"}
"""What a fine-tuning's learning curve has, with the words for people."""
MOST = 60
"""Classes that a confusion matrix can name; of more only the commonest confusions are told."""


def score_bars(table: Table) -> Figure:
    """Grouped bars: a group per column of the table, a bar per row; a question mark where a task failed."""
    figure, (panel,) = panels(1, 1, height=3.1)
    width = 0.8 / len(ENCODERS)
    for index, (encoder, title) in enumerate(ENCODERS.items()):
        for group, column in enumerate(table.tasks):
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
            elif cell.failed:
                panel.annotate("?", (x, 0), (0, 3), textcoords="offset points", ha="center", color=FAINT)
        panel.bar(0, 0, color=ENCODER_COLORS[encoder], label=title)
    for group, column in enumerate(table.tasks):
        if column in table.chances:
            level, reach = table.chances[column], (group - 0.48, group + 0.48)
            panel.hlines(level, *reach, color=FAINT, linewidth=1, linestyle=DASHED, zorder=3)
    for level in {round(table.chances[c], 6) for c in table.tasks if c in table.chances}:
        name_level(panel, level, "chance")
    panel.set_xticks(range(len(table.tasks)), [column.title for column in table.tasks])
    panel.tick_params(axis="x", length=0)
    panel.grid(visible=False, axis="x")
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.margins(y=0.12)
    panel.set_xlim(-0.5, len(table.tasks) - 0.5)
    panel.legend(
        ncols=len(ENCODERS), loc="upper left", bbox_to_anchor=(0, 1.16), borderaxespad=0, handlelength=1
    )
    return figure


def confusions(scores: Sequence[Score]) -> Counter[tuple[str, str]]:
    """Test clips by their class and by the one they were taken for, over all folds."""
    found: Counter[tuple[str, str]] = Counter()
    for score in scores:
        for label, row in score.confusion.items():
            found.update({(label, taken): count for taken, count in row.items()})
    return found


def confusion_matrix(scores: Sequence[Score]) -> Figure:
    """Share of each class's test clips (rows) by the class they were taken for (columns); at most `MOST`."""
    classes, counts = scores[0].classes, confusions(scores)
    matrix = np.array([[counts[label, taken] for taken in classes] for label in classes], float)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    narrow = len(classes) <= NARROW
    size = WIDTH / 2 if narrow else WIDTH
    figure = Figure(figsize=(size, size), layout="constrained")
    panel = figure.add_subplot()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font = 7.5 if narrow else 6.5
    panel.set_xticks(range(len(classes)), classes, rotation=90, fontsize=font)
    panel.set_yticks(range(len(classes)), classes, fontsize=font)
    panel.tick_params(length=0)
    panel.grid(visible=False)
    panel.set_xlabel("taken for")
    panel.set_ylabel("class")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        if narrow:
            color = "white" if shares[row, column] > 0.5 else INK
            text = f"{matrix[row, column]:.0f}"
            panel.text(column, row, text, ha="center", va="center", color=color, fontsize=6.5)
    return figure


def tuning_curves(table: Table) -> Figure:
    """Per fine-tuning the loss and, if it chose the epoch, the validation; a line an encoder and fold."""
    drawn = [(column, field) for column in table.tasks for field in CURVES if _curves(table, column, field)]
    wide = min(2, len(drawn))
    high = math.ceil(len(drawn) / wide)
    figure, axes = panels(high, wide, 2.6 * high)
    for panel in axes[len(drawn) :]:
        panel.set_visible(False)
    for panel, (column, field) in zip(axes, drawn, strict=False):
        for encoder, curves in _curves(table, column, field).items():
            for index, (epochs, values) in enumerate(curves):
                label = None if index else ENCODERS[encoder]
                panel.plot(epochs, values, color=ENCODER_COLORS[encoder], label=label)
        panel.set_title(f"{column.title.partition(' (')[0]}: {CURVES[field]}")
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if field == "validation":
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.legend()
    return figure


def has_tuning_curves(table: Table) -> bool:
    """Whether there is something for `tuning_curves`."""
    return any(_curves(table, column, "loss") for column in table.tasks)


def _curves(
    table: Table, column: Column, field: str
) -> dict[EvaluatedEncoder, list[tuple[list[float], list[float]]]]:
    """By encoder, for each fold the epochs and the values of a field of its learning curve."""
    found: dict[EvaluatedEncoder, list[tuple[list[float], list[float]]]] = {}
    for encoder in ENCODERS:
        cell = table.cell(encoder, column)
        for score in cell.scores if isinstance(cell, Cell) else ():
            rows = [row for row in score.curve if field in row]
            if rows:
                curve = [row["epoch"] for row in rows], [row[field] for row in rows]
                found.setdefault(encoder, []).append(curve)
    return found


def comparison_bars(comparison: Comparison, block: Block) -> Figure:
    """A panel per column, a bar per row; a mark where the paper's number is."""
    rows = comparison.rows(block.places)
    figure, axes = panels(1, len(block.places), 0.9 + 0.27 * len(rows))
    for panel, place in zip(axes, block.places, strict=True):
        for y, (group, encoder) in enumerate(rows):
            mean = comparison.cells.get((group, encoder, place))
            if mean is None:
                continue
            panel.barh(
                y,
                mean.mean,
                height=0.74,
                color=ENCODER_COLORS[encoder],
                xerr=mean.spread,
                ecolor=INK,
                error_kw={"elinewidth": 0.9, "capsize": 2},
            )
            panel.text(1, y, f"{mean.mean:.1f}", va="center", color="white", fontsize=8)
            paper = comparison.paper(group, encoder, place)
            if paper:
                panel.plot(paper.percent, y, "D", color=PAPER_COLOR, markersize=5)
        panel.set_yticks(range(len(rows)), [""] * len(rows))
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.tick_params(axis="y", length=0)
        panel.grid(visible=False, axis="y")
        panel.xaxis.set_major_locator(MaxNLocator(3))
        panel.xaxis.set_major_formatter(PercentFormatter(100, decimals=0))
        panel.set_title(place.title.replace(", ", ",\n"), fontsize=8.5)
    axes[0].set_yticklabels([f"{group.title}, {encoder}" for group, encoder in rows])
    return figure
