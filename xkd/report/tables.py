"""Tables of scores: a row an encoder, a column a protocol of the table's dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from xkd.evaluate.protocols import SETUPS, Setup
from xkd.evaluate.scores import METRICS, EvaluatedEncoder, EvaluatedModality, Score, task_name
from xkd.presets import PRESETS

ENCODERS: dict[EvaluatedEncoder, str] = {
    "teacher": "Teacher",
    "student": "Student",
    "random": "Random initialization",
    "raw": "Raw input",
}
"""The rows of a table, with the words for people."""


MEASURED = "top-1 of a linear SVM on frozen features, or what the column says"
_TITLES: dict[EvaluatedModality, str] = {"video": "Video", "audio": "Audio", "audiovisual": "Late fusion"}


@dataclass(frozen=True)
class Column:
    """One column of a table: one protocol on the table's dataset."""

    setup: Setup

    @property
    def title(self) -> str:
        """For people; a linear SVM's top-1 goes without saying."""
        title = _TITLES[self.setup.modality]
        if self.setup.protocol == "fc":
            return f"{title}, FC ({METRICS[self.setup.metric]})"
        return title

    @property
    def name(self) -> str:
        """For files."""
        return self.setup.modality + ("_fc" if self.setup.protocol == "fc" else "")


@dataclass(frozen=True)
class Cell:
    """One number of a table: the mean over folds, or the single score."""

    mean: float
    spread: float
    """Standard deviation over folds; of a single top-1 the binomial standard error, of a single mAP 0."""
    scores: tuple[Score, ...]
    gain: float | None = None
    """Difference to the random initialization's cell; None in that row or without it."""
    missing: tuple[str, ...] = ()
    """Folds without a score, and why."""


@dataclass(frozen=True)
class Hole:
    """A number that is missing, and why."""

    reason: str


class Printed(NamedTuple):
    """A number of the paper's."""

    value: float
    """In [0, 1]; of the first fold."""
    source: str
    difference: float | None
    """Our teacher's score of the first fold less this; None without one."""

    def __str__(self) -> str:
        less = "" if self.difference is None else f" (ours {100 * self.difference:+.1f})"
        return f"{100 * self.value:.1f}{less}"


@dataclass(frozen=True)
class Table:
    """The scores on one dataset: rows `ENCODERS`, columns its protocols."""

    dataset: str
    columns: tuple[Column, ...]
    cells: dict[tuple[EvaluatedEncoder, Column], Cell | Hole]
    chances: dict[Column, float]
    """What guessing scores, where it is known."""
    paper: dict[Column, Printed]
    """What the paper prints for the teacher of the run's preset, where it prints something."""

    def cell(self, encoder: EvaluatedEncoder, column: Column) -> Cell | Hole:
        """The number of one row and column."""
        return self.cells[encoder, column]

    @property
    def holes(self) -> dict[str, str]:
        """Why numbers, or folds of them, are missing, by "Row, column"."""
        found = {}
        for encoder, title in ENCODERS.items():
            for column in self.columns:
                cell = self.cell(encoder, column)
                reasons = (cell.reason,) if isinstance(cell, Hole) else cell.missing
                if reasons:
                    found[f"{title}, {column.title[:1].lower()}{column.title[1:]}"] = "; ".join(reasons)
        return found


def make_table(dataset: str, scores: list[Score], folder: Path, preset: str) -> Table:
    """The scores on a dataset by its protocols, and why numbers are missing.

    Args:
        dataset: the dataset's name.
        scores: of one run; those on other datasets do not count.
        folder: where failed tasks have left their reasons.
        preset: the run's, for the paper's numbers.
    """
    mine = [score for score in scores if score.dataset == dataset]
    columns = tuple(Column(setup) for setup in SETUPS.get(dataset, SETUPS["embedded"]))
    cells: dict[tuple[EvaluatedEncoder, Column], Cell | Hole] = {}
    chances: dict[Column, float] = {}
    for column in columns:
        setup = column.setup
        of_column = [s for s in mine if (s.modality, s.protocol) == (setup.modality, setup.protocol)]
        if of_column:
            chances[column] = of_column[0].chance
        for encoder in ENCODERS:
            same = [score for score in of_column if score.encoder == encoder]
            cells[encoder, column] = _cell(dataset, setup, encoder, same, folder)
        base = cells["random", column]
        for encoder in ENCODERS:
            cell = cells[encoder, column]
            if encoder != "random" and isinstance(cell, Cell) and isinstance(base, Cell):
                cells[encoder, column] = replace(cell, gain=cell.mean - base.mean)
    paper = {column: found for column in columns if (found := _printed(dataset, column, mine, preset))}
    return Table(dataset, columns, cells, chances, paper)


def _printed(dataset: str, column: Column, scores: list[Score], preset: str) -> Printed | None:
    """The paper's number for a column; its tables of variants and ablations have the SVM on split 1."""
    known = PRESETS.get(preset)
    value = getattr(known.paper, dataset, None) if known and known.paper else None
    if known is None or value is None or column.setup.protocol != "svm":
        return None
    ours = [s.score for s in scores if (s.encoder, s.fold, s.protocol) == ("teacher", 1, "svm")]
    return Printed(value / 100, known.source, ours[0] - value / 100 if ours else None)


def _cell(
    dataset: str, setup: Setup, encoder: EvaluatedEncoder, scores: list[Score], folder: Path
) -> Cell | Hole:
    """The number that the scores of a setup's folds make, and what it lacks."""
    reasons = {}
    for fold in set(range(1, setup.folds + 1)) - {score.fold for score in scores}:
        name = task_name(dataset, setup.modality, setup.protocol, encoder, fold)
        failed = folder / f"{name}.failed"
        reasons[fold] = failed.read_text().strip() if failed.is_file() else "not evaluated"
    if scores:
        missing = tuple(f"fold {fold}: {reason}" for fold, reason in sorted(reasons.items()))
        return replace(cell_of(scores), missing=missing)
    return Hole("; ".join(dict.fromkeys(reasons[fold] for fold in sorted(reasons))))


def cell_of(scores: list[Score]) -> Cell:
    """The mean and the spread of the scores of one task over its folds."""
    values = [score.score for score in scores]
    mean = fmean(values)
    spread = 0.0
    if len(values) > 1:
        spread = stdev(values)
    elif scores[0].metric == "top1":
        spread = math.sqrt(mean * (1 - mean) / scores[0].test_clips)
    return Cell(mean, spread, tuple(scores))


def number(cell: Cell) -> str:
    """A cell in percent; of several folds with their standard deviation and how many they are."""
    folds = f" ± {100 * cell.spread:.1f} (n={len(cell.scores)})" if len(cell.scores) > 1 else ""
    return f"{100 * cell.mean:.1f}{folds}"


def paper_row(table: Table) -> str:
    """What the row of the paper's numbers is called."""
    return f"The paper's teacher, split 1 ({next(iter(table.paper.values())).source})"
