"""The figures of a report: which there are, their captions, and why one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from xkd.config import MODALITIES
from xkd.io import write_atomically
from xkd.model.terms import KD
from xkd.report.collect import ReportData
from xkd.report.plots.reconstructions import attention_maps, by_mask_ratio, reconstructions
from xkd.report.plots.scores import (
    MAX_CLASSES,
    comparison_bars,
    confusion_matrix,
    finetuning_curves,
    has_finetuning_curves,
    score_bars,
)
from xkd.report.plots.training import GRAY, INK, distillation_curves, loss_curves, schedule_curves

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#c4c8ce",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "text.color": INK,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "xkd",
}
_CAPTIONS = {
    "losses": "The objective (Equation 12) and its terms.",
    "distillation": "Cross-modal distillation loss (KD) = teacher entropy + KLD, per direction. In a one-hot "
    "collapse all three fall to zero; with constant outputs KD stays at ln K and KLD falls to zero.",
    "schedules": "Learning rate, teacher momentum and teacher temperatures.",
    "scores": "Error bars: standard deviation over folds; for the top-1 accuracy of a single fold, the "
    "binomial standard error. Dashed lines: chance.",
    "comparison": "Error bars: standard deviation over seeds, or over folds for a single run. Diamonds: the "
    "paper's results.",
    "confusion": "Test clips of all folds by true class (rows) and predicted class (columns). Color: share "
    "of the true class.",
    "finetuning": "Learning curves, one per encoder and fold. Fine-tuning from the random initialization is "
    "training from scratch.",
    "reconstruction": "Sample clips, held out if available: original, input of the student at its training "
    "mask ratio of {ratio:.0%}, and reconstruction. Visible patches are copied. Hidden patches are predicted "
    "up to their mean and standard deviation, which are taken from the original.",
    "mask_ratios": "The same student at the mask ratios of Figures S8 to S10; it was trained at {ratio:.0%}. "
    "Patches visible at one ratio are visible at all lower ratios.",
    "attention": "Teacher attention relative to its mean over the patches of a clip. Before refinement: "
    "attention in the last block, averaged over heads (Equation 3). After: the weights that refinement gives "
    "the teacher's features (Equations 4 to 6); without refinement all would be 1. {refined}",
}
_REFINED = {
    "none": "",
    "mean": "Equation 4 derives one number per head from the other modality: it changes the weight of each "
    "head, not where a head attends.",
    "softmax": "Equation S3 takes the softmax of small numbers, so the weights are nearly equal.",
}


class FigureFile(NamedTuple):
    """A figure in the report, or the reason why it is missing."""

    kind: str
    """Key of `_CAPTIONS`."""
    title: str
    caption: str
    path: Path | None
    reason: str


class _Plot(NamedTuple):
    """A figure that may be drawn."""

    kind: str
    file: str
    title: str
    draw: Callable[[], Figure]
    missing: str = ""
    """Why it cannot be drawn."""
    caption: str = ""
    """Empty: the one of its kind."""


def draw_figures(data: ReportData, folder: Path) -> dict[str, FigureFile]:
    """Draw every figure that the data allows into `folder`; by file name without suffix, in display order."""
    figures = {}
    for plot in (*_score_plots(data), *_training_plots(data), *_sample_plots(data)):
        path = None if plot.missing else folder / plot.file
        if path is not None:
            save(plot.draw, path)
        caption = plot.caption or _CAPTIONS[plot.kind]
        figures[Path(plot.file).stem] = FigureFile(plot.kind, plot.title, caption, path, plot.missing)
    return figures


def _score_plots(data: ReportData) -> Iterator[_Plot]:
    for table in data.tables:
        name = table.dataset
        missing = "" if table.chances else "nothing was evaluated"
        yield _Plot("scores", f"scores_{name}.svg", f"Scores on {name}", partial(score_bars, table), missing)
        if has_finetuning_curves(table):
            draw = partial(finetuning_curves, table)
            yield _Plot("finetuning", f"finetuning_{name}.svg", f"Fine-tuning on {name}", draw)
        for column in table.tasks:
            best = table.best(column)
            if best and best.scores[0].confusion and len(best.scores[0].classes) <= MAX_CLASSES:
                draw, title = partial(confusion_matrix, best.scores), f"{column.title}, {best.encoder}"
                yield _Plot("confusion", f"confusion_{name}_{column.name}.svg", title, draw)
    comparison = data.comparison
    for index, block in enumerate(comparison.blocks if comparison.several else (), start=1):
        draw = partial(comparison_bars, comparison, block)
        yield _Plot("comparison", f"comparison_{index}.svg", block.title, draw)


def _training_plots(data: ReportData) -> Iterator[_Plot]:
    history = data.history
    empty = "" if history else "no metrics were logged"
    distilled = any(field in row for row in history for field in KD.values())
    undistilled = empty or ("" if distilled else "the run has no distillation")
    out_dim = data.run.config.projector.out_dim
    yield _Plot("losses", "losses.svg", "Losses", partial(loss_curves, history), empty)
    draw = partial(distillation_curves, history, out_dim)
    yield _Plot("distillation", "distillation.svg", "Distillation", draw, undistilled)
    yield _Plot("schedules", "schedules.svg", "Schedules", partial(schedule_curves, history), empty)


def _sample_plots(data: ReportData) -> Iterator[_Plot]:
    config = data.run.config
    refinement = config.refine.relevance
    unrefined = "features are not refined (refine.relevance is none)" if refinement == "none" else ""
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
            ratio = config.modality(m).mask_ratio
            caption = _CAPTIONS[kind].format(ratio=ratio, refined=_REFINED[refinement])
            yield _Plot(kind, f"{kind}_{m}.png", f"{title}, {m}", partial(draw, samples), reason, caption)


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Write a figure; equal figures give equal bytes, so that a versioned report does not change."""
    kind = path.suffix[1:]
    metadata = {"Date": None} if kind == "svg" else None
    with mpl.rc_context(_STYLE):
        write = partial(
            draw().savefig, format=kind, metadata=metadata, dpi=160, bbox_inches="tight", pad_inches=0.05
        )
        write_atomically(path, write)
