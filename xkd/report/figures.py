"""Every figure of a report: which there are, what they say, and why one is missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from xkd.config import MODALITIES
from xkd.report.collect import Findings
from xkd.report.curves import FAINT, INK, distillation_curves, loss_curves, schedule_curves, score_bars
from xkd.report.pictures import frame_strips, load_pictures, spectrogram_rows

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
    "video": "Frames of held-out clips: original, what the student sees, and its reconstruction.",
    "audio": "Log-mel spectrograms of held-out clips, low frequencies at the bottom: original, what the "
    "student sees, and its reconstruction.",
}


class Drawing(NamedTuple):
    """A figure's file, or why there is none."""

    title: str
    caption: str
    path: Path | None
    reason: str = ""


def draw(findings: Findings, folder: Path) -> dict[str, Drawing]:
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

    unscored = "" if findings.scores else "nothing was evaluated"
    for table in findings.tables:
        add(
            f"scores_{table.dataset}.svg", "Scores", _CAPTIONS["scores"], partial(score_bars, table), unscored
        )

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

    for m in MODALITIES:
        unkept = "" if m in pictures else "the run kept no reconstructions"
        ratio = findings.config.modality(m).mask_ratio
        caption = f"{_CAPTIONS[m]} Mask ratio {ratio:g}; visible patches are copied into the reconstruction."
        paint = partial(frame_strips if m == "video" else spectrogram_rows, pictures.get(m, {}))
        add(f"reconstruction_{m}.png", f"Reconstruction, {m}", caption, paint, unkept)
    return drawings


def save(paint: Callable[[], Figure], path: Path) -> None:
    """Write a figure; the same figure gives the same bytes, so that a versioned report does not change."""
    with mpl.rc_context(_STYLE):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        paint().savefig(path, metadata=metadata, dpi=160, bbox_inches="tight", pad_inches=0.05)
