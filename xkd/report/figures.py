"""Every figure of a report: which there are, what they say, and why one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from xkd.config import MODALITIES
from xkd.report.collect import ReportData
from xkd.report.plots.reconstructions import attention_maps, by_mask_ratio, load_pictures, reconstructions
from xkd.report.plots.scores import (
    MOST,
    comparison_bars,
    confusion_matrix,
    has_tuning_curves,
    score_bars,
    tuning_curves,
)
from xkd.report.plots.training import FAINT, INK, distillation_curves, loss_curves, schedule_curves

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
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "xkd",
}
_CAPTIONS = {
    "losses": "The objective of Equation 12 and its terms.",
    "distillation": "Cross-modal distillation loss (KD) = teacher entropy + KLD, per direction. One-hot "
    "collapse pulls all three to zero; constant outputs hold KD at ln K and pull KLD to zero.",
    "schedules": "Learning rate, and the teachers' momentum and temperatures.",
    "scores": "Whiskers: standard deviation over folds; for the top-1 of a single fold the binomial standard "
    "error over its test clips. Dashed lines are chance.",
    "comparison": "Whiskers: standard deviation over seeds, of a single run over folds. Diamonds: what the "
    "paper prints.",
    "confusion": "Test clips of all folds by their class and the class they were taken for; the color is the "
    "share of the class.",
    "finetuning": "Learning curves of the fine-tunings, a line for each encoder and fold. Training from the "
    "random initialization is training from scratch.",
    "reconstruction": "A few clips, held-out ones if there are any: original, what the student sees at the "
    "mask ratio it was trained with, {ratio:.0%}, and its reconstruction. Visible patches are copied. It "
    "predicts the others up to their mean and deviation, which are the original's here.",
    "mask_ratios": "The same student at the mask ratios of Figures S8 to S10; it was trained with "
    "{ratio:.0%}. What is visible at one ratio is visible at all lower ones.",
    "attention": "Where the teacher looks, in multiples of the mean over all patches of a clip. Before: its "
    "attention to them in the last block, averaged over the heads (Equation 3). After: their weights in the "
    "features it teaches (Equations 4 to 6), which without refinement would all be 1. {how}",
}
_REFINED = {
    "mean": "By Equation 4 the other modality gives one number a head: it changes how much each head counts, "
    "not where a head looks.",
    "softmax": "By Equation S3 the weights are the softmax of small numbers, and so nearly equal.",
}


class Drawing(NamedTuple):
    """A figure's file, or why there is none."""

    title: str
    caption: str
    path: Path | None
    reason: str = ""


def draw(findings: ReportData, folder: Path) -> dict[str, Drawing]:
    """Draw every figure that the findings allow into `folder`; by name, in the report's order."""
    folder.mkdir(parents=True, exist_ok=True)
    history, run = findings.history, findings.run
    pictures = load_pictures(run / "reconstruction.pt")
    drawings: dict[str, Drawing] = {}

    def add(file: str, title: str, caption: str, paint: Callable[[], Figure], missing: str = "") -> None:
        path = None if missing else folder / file
        if path is not None:
            save(paint, path)
        drawings[Path(file).stem] = Drawing(title, caption, path, missing)

    for figure in _results(findings):
        add(*figure)

    out_dim = findings.config.projector.out_dim
    curves: dict[str, Callable[[], Figure]] = {
        "losses": partial(loss_curves, history),
        "distillation": partial(distillation_curves, history, out_dim),
        "schedules": partial(schedule_curves, history),
    }
    missing = dict.fromkeys(curves, "" if history else "the run logged nothing")
    if history and not any("kd_video_to_audio" in row for row in history):
        missing["distillation"] = "nothing was distilled"
    for name, paint in curves.items():
        add(f"{name}.svg", name.capitalize(), _CAPTIONS[name], paint, missing[name])

    refinement = findings.config.refine.relevance
    unrefined = "" if refinement != "none" else "features are not refined (refine.relevance is none)"
    if len(findings.config.modalities) == 1:
        unrefined = "one modality alone has no teachers"
    for m in MODALITIES:
        picture, ratio = pictures.get(m, {}), findings.config.modality(m).mask_ratio
        unkept = "" if picture else "the run kept no pictures"
        for name, title, draw_picture, reason in (
            ("reconstruction", "Reconstruction", reconstructions, unkept),
            ("mask_ratios", "Reconstruction by mask ratio", by_mask_ratio, unkept),
            ("attention", "Attention and its refinement", attention_maps, unrefined or unkept),
        ):
            caption = _CAPTIONS[name].format(ratio=ratio, how=_REFINED.get(refinement, ""))
            add(f"{name}_{m}.png", f"{title}, {m}", caption, partial(draw_picture, picture), reason)
    return drawings


def _results(findings: ReportData) -> Iterator[tuple[str, str, str, Callable[[], Figure], str]]:
    """The figures of how the encoders score: file, title, caption, what paints it, why not."""
    for table in findings.tables:
        unscored = "" if table.chances else "nothing was evaluated"
        yield (
            f"scores_{table.dataset}.svg",
            "Scores",
            _CAPTIONS["scores"],
            partial(score_bars, table),
            unscored,
        )
        if has_tuning_curves(table):
            title = f"Fine-tuning on {table.dataset}"
            paint = partial(tuning_curves, table)
            yield f"finetuning_{table.dataset}.svg", title, _CAPTIONS["finetuning"], paint, ""
        for column in table.tasks:
            found = table.published(column)
            if found and found[1].scores[0].confusion and len(found[1].scores[0].classes) <= MOST:
                file = f"confusion_{table.dataset}_{column.name}.svg"
                paint = partial(confusion_matrix, found[1].scores)
                yield file, f"{column.title}, {found[0]}", _CAPTIONS["confusion"], paint, ""
    comparison = findings.comparison
    for index, block in enumerate(comparison.blocks if comparison.several else (), start=1):
        paint = partial(comparison_bars, comparison, block)
        yield f"comparison_{index}.svg", block.title, _CAPTIONS["comparison"], paint, ""


def save(paint: Callable[[], Figure], path: Path) -> None:
    """Write a figure; the same figure gives the same bytes, so that a versioned report does not change."""
    with mpl.rc_context(_STYLE):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        paint().savefig(path, metadata=metadata, dpi=160, bbox_inches="tight", pad_inches=0.05)
