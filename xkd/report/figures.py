"""The figures of a report: which there are, their captions, and why one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from xkd.config import MODALITIES, Modality
from xkd.io import write_atomically
from xkd.model.terms import KD
from xkd.report.plots.reconstructions import attention_maps, by_mask_ratio, reconstructions
from xkd.report.plots.scores import (
    MAX_CLASSES,
    comparison_bars,
    confusion_matrix,
    finetuning_curves,
    score_bars,
)
from xkd.report.plots.training import distillation_curves, loss_curves, schedule_curves
from xkd.report.tables import ReportData

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


def draw_figures(data: ReportData, folder: Path) -> dict[str, Plot]:
    """Draw every figure that the data allows into `folder`, and remove those of an earlier report.

    Returns them by file name without suffix, in display order.
    """
    plots = [*_score_plots(data, folder), *_training_plots(data, folder), *_sample_plots(data, folder)]
    drawn = {plot.path for plot in plots if not plot.missing}
    for old in {*folder.glob("*.svg"), *folder.glob("*.png")} - drawn:
        old.unlink(missing_ok=True)  # another process may write the same report
    for plot in plots:
        if not plot.missing:
            save(plot.draw, plot.path)
    return {plot.path.stem: plot for plot in plots}


def _score_plots(data: ReportData, folder: Path) -> Iterator[Plot]:
    for table in data.tables:
        name, empty = table.dataset, "" if table.chances else "nothing was evaluated"
        draw: Callable[[], Figure] = partial(score_bars, table)
        yield Plot("scores", folder / f"scores_{name}.svg", f"Scores on {name}", draw, empty)
        if any(score.curve for column in table.tasks for r in table.column(column) for score in r.scores):
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
    distilled = any(field in row for row in history for field in KD.values())
    undistilled = empty or ("" if distilled else "the run has no distillation")
    yield Plot("losses", folder / "losses.svg", "Losses", partial(loss_curves, history), empty)
    draw = partial(distillation_curves, history, data.run.config.projector.out_dim)
    yield Plot("distillation", folder / "distillation.svg", "Distillation", draw, undistilled)
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


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Write a figure; equal figures give equal bytes, so that a versioned report does not change."""
    kind = path.suffix[1:]
    metadata = {"Date": None} if kind == "svg" else None
    with mpl.rc_context(fname=_STYLE):
        figure = draw()
        write_atomically(path, lambda file: figure.savefig(file, format=kind, metadata=metadata))
