"""The figures of a report: which there are, their captions, and why one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from xkd.config import MODALITIES, Modality
from xkd.io import write_atomically
from xkd.model.terms import KD
from xkd.report.collect import ReportData
from xkd.report.inline import Panel, split, whole
from xkd.report.plots.reconstructions import attention_maps, by_mask_ratio, reconstructions
from xkd.report.plots.scores import (
    MAX_CLASSES,
    comparison_bars,
    confusion_matrix,
    finetuning_curves,
    learning_curves,
    score_bars,
)
from xkd.report.plots.training import distillation_curves, loss_curves, probe_curves, probes, schedule_curves

CURVES = ("losses", "distillation", "probes", "schedules", "finetuning")
"""Kinds of figures with curves, whose panels are shown one by one."""
_STYLE = Path(__file__).with_name("templates") / "report.mplstyle"


class Plot(NamedTuple):
    """A figure of the report, or the reason why it is missing."""

    kind: str
    """What it shows; templates/captions.html.j2 has a caption for each kind."""
    path: Path
    title: str
    draw: Callable[[], Figure]
    missing: str = ""
    """Why it cannot be drawn."""
    modality: Modality | None = None
    """Set if there is one figure per modality."""
    panels: Sequence[Panel] = ()
    """What the page shows of an SVG file."""


def draw_figures(data: ReportData, folder: Path) -> dict[str, Plot]:
    """Draw every figure that the data allows into `folder`, and remove those of an earlier report.

    Returns them by file name without suffix, in display order.
    """
    plots = [*_score_plots(data, folder), *_training_plots(data, folder), *_sample_plots(data, folder)]
    drawn = {plot.path for plot in plots if not plot.missing}
    for old in {*folder.glob("*.svg"), *folder.glob("*.png")} - drawn:
        old.unlink(missing_ok=True)  # another process may write the same report
    return {plot.path.stem: plot if plot.missing else _draw(plot) for plot in plots}


def _draw(plot: Plot) -> Plot:
    figure = save(plot.draw, plot.path)
    if plot.path.suffix != ".svg":
        return plot
    with mpl.rc_context(fname=_STYLE):  # it decides the ticks, whose labels need space
        panels = split(plot.path, figure) if plot.kind in CURVES else whole(plot.path, plot.title)
    return plot._replace(panels=panels)


def _score_plots(data: ReportData, folder: Path) -> Iterator[Plot]:
    for table in data.tables:
        name, empty = table.dataset, "" if table.chances else "nothing was evaluated"
        draw: Callable[[], Figure] = partial(score_bars, table)
        yield Plot("scores", folder / f"scores_{name}.svg", f"Scores on {name}", draw, empty)
        if learning_curves(table):
            draw = partial(finetuning_curves, table)
            yield Plot("finetuning", folder / f"finetuning_{name}.svg", f"Fine-tuning on {name}", draw)
        for column in table.tasks:
            best = table.best(column)
            if best and best.scores[0].confusion and len(best.scores[0].classes) <= MAX_CLASSES:
                draw, title = partial(confusion_matrix, best.scores), f"{column.title}, {best.encoder}"
                yield Plot("confusion", folder / f"confusion_{name}_{column.name}.svg", title, draw)
    comparison = data.comparison
    for index, block in enumerate(comparison.blocks if comparison.several else (), start=1):
        draw = partial(comparison_bars, comparison, block)
        yield Plot("comparison", folder / f"comparison_{index}.svg", block.title, draw)


def _training_plots(data: ReportData, folder: Path) -> Iterator[Plot]:
    history = data.history
    empty = "" if history else "no metrics were logged"
    if len(history) == 1:
        empty = f"metrics of one step alone, {history[0]['step']}, were logged"
    distilled = any(field in row for row in history for field in KD.values())
    undistilled = empty or ("" if distilled else "the run has no distillation")
    yield Plot("losses", folder / "losses.svg", "Losses", partial(loss_curves, history), empty)
    draw = partial(distillation_curves, history, data.run.thresholds)
    yield Plot("distillation", folder / "distillation.svg", "Distillation", draw, undistilled)
    if probed := len(probes(history)):
        draw, few = partial(probe_curves, history), "one evaluation alone was logged" if probed == 1 else ""
        yield Plot("probes", folder / "probes.svg", "Evaluation while training", draw, few)
    yield Plot("schedules", folder / "schedules.svg", "Schedules", partial(schedule_curves, history), empty)


def _sample_plots(data: ReportData, folder: Path) -> Iterator[Plot]:
    config = data.run.config
    refined = config.refine.relevance != "none"
    unrefined = "" if refined else "features are not refined (refine.relevance is none)"
    if len(config.modalities) == 1:
        unrefined = "a run on one modality has no teachers"
    for m in MODALITIES:
        samples = data.samples.get(m, {})
        missing = "" if samples else "the run saved no sample clips"
        for kind, title, draw, reason in (
            ("reconstruction", "Reconstruction", reconstructions, missing),
            ("mask_ratios", "Reconstruction by mask ratio", by_mask_ratio, missing),
            ("attention", "Attention and its refinement", attention_maps, unrefined or missing),
        ):
            yield Plot(kind, folder / f"{kind}_{m}.png", f"{title}, {m}", partial(draw, samples), reason, m)


def save(draw: Callable[[], Figure], path: Path) -> Figure:
    """Write a figure and return it; equal figures give equal bytes: a versioned report does not change."""
    kind = path.suffix[1:]
    # A cropped SVG would have other coordinates than the figure.
    options: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"bbox_inches": "tight"}
    with mpl.rc_context(fname=_STYLE):
        figure = draw()
        write_atomically(path, lambda file: figure.savefig(file, format=kind, **options))
    return figure
