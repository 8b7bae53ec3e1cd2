"""Tables of scores: a row an encoder, a column a protocol of the table's dataset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from xkd.config.presets.paper_results import ALL_SPLITS, FIRST_SPLIT, paper_results
from xkd.evaluate.metrics import METRIC_NAMES
from xkd.evaluate.score import EvaluatedEncoder, EvaluatedModality, Score, task_name
from xkd.evaluate.specs import EVAL_SPECS, EvalSpec

PUBLISHED: tuple[EvaluatedEncoder, ...] = ("teacher", "student")
"""The encoders of a run, the better one first."""
ENCODERS: dict[EvaluatedEncoder, str] = {
    "teacher": "Teacher",
    "student": "Student",
    "random": "Random initialization",
    "raw": "Raw input",
}
"""The rows of a table, with the words for people."""
SPLITS = {FIRST_SPLIT: "split 1", ALL_SPLITS: "all splits"}
"""What a number may be of, with the words for people."""

NOTHING = "\N{EN DASH}"
"""What stands where nothing was evaluated."""
MEASURED = "top-1 of a linear SVM on frozen features, or what the column says"
_TITLES: dict[EvaluatedModality, str] = {"video": "Video", "audio": "Audio", "audiovisual": "Late fusion"}
_PROTOCOLS = {"fc": "FC", "finetune": "fine-tuned"}
"""The protocols that a column's title names; the others go without saying."""


@dataclass(frozen=True)
class Column:
    """One column of a table: one protocol on the table's dataset, or its top-5."""

    setup: EvalSpec
    top5: bool = False

    @property
    def metric(self) -> str:
        """What its numbers are, for people."""
        return "top-5" if self.top5 else METRIC_NAMES[self.setup.metric]

    @property
    def title(self) -> str:
        """For people; a linear SVM's top-1 goes without saying."""
        title, protocol = _TITLES[self.setup.modality], _PROTOCOLS.get(self.setup.protocol)
        return f"{title}, {protocol} ({self.metric})" if protocol else title

    @property
    def name(self) -> str:
        """For files."""
        protocol = self.setup.protocol
        name = self.setup.modality + (f"_{protocol}" if protocol in _PROTOCOLS else "")
        return f"{name}_top5" if self.top5 else name

    def holds(self, score: Score) -> bool:
        """Whether a score has a number for this column."""
        of_setup = (score.modality, score.protocol) == (self.setup.modality, self.setup.protocol)
        return of_setup and not (self.top5 and score.top5 is None)

    def value(self, score: Score) -> float:
        """The number, in [0, 1], of a score that `holds` one."""
        return (score.top5 or 0.0) if self.top5 else score.score


@dataclass(frozen=True)
class Cell:
    """One number of a table: the mean over folds, or the single score."""

    mean: float
    spread: float
    """Standard deviation over folds; of a single top-k the binomial standard error, of a single mAP 0."""
    scores: tuple[Score, ...]
    gain: float | None = None
    """Difference to the random initialization's cell; None in that row or without it."""
    missing: str = ""
    """Folds without a score, and why."""


@dataclass(frozen=True)
class MissingCell:
    """A number that is not there, and why."""

    reason: str
    failed: bool = False
    """Whether it was asked for."""


NOT_EVALUATED = MissingCell("not evaluated")
NOTHING_TO_TUNE = MissingCell("raw input has nothing to fine-tune")


class Paper(NamedTuple):
    """A number of the paper's, and ours of the same kind."""

    percent: float
    source: str
    difference: float | None
    """Ours less this, in points; None without ours."""

    def __str__(self) -> str:
        less = "" if self.difference is None else f" (ours {self.difference:+.1f})"
        return f"{self.percent:.1f}{less}"


class Line(NamedTuple):
    """A row of a table as text."""

    title: str
    cells: list[str]
    reference: bool = False
    """Whether its numbers are not ours."""


@dataclass(frozen=True)
class Table:
    """The scores on one dataset: rows `ENCODERS`, columns its protocols."""

    dataset: str
    columns: tuple[Column, ...]
    """Those with a score, or with a task that failed."""
    empty: tuple[Column, ...]
    """The dataset's other protocols."""
    cells: dict[tuple[EvaluatedEncoder, Column], Cell | MissingCell]
    chances: dict[Column, float]
    """What guessing scores, where it is known."""
    paper: dict[str, dict[Column, Paper]]
    """What the paper prints for the run's preset: by what it is of, numbers by column."""

    def cell(self, encoder: EvaluatedEncoder, column: Column) -> Cell | MissingCell:
        """The number of one row and column."""
        return self.cells[encoder, column]

    def published(self, column: Column) -> tuple[EvaluatedEncoder, Cell] | None:
        """The teacher's number, or the student's where there is no teacher's; None without either."""
        for encoder in PUBLISHED:
            cell = self.cell(encoder, column)
            if isinstance(cell, Cell):
                return encoder, cell
        return None

    @property
    def tasks(self) -> tuple[Column, ...]:
        """The columns without the top-5, which are of the same tasks as others."""
        return tuple(column for column in self.columns if not column.top5)

    @property
    def missing(self) -> dict[str, str]:
        """Why numbers that were asked for, or folds of numbers, are missing, by "Row, column"."""
        found = {}
        for encoder, title in ENCODERS.items():
            for column in self.tasks:
                cell = self.cell(encoder, column)
                if isinstance(cell, MissingCell) and cell.failed:
                    found[f"{title}, {_small(column.title)}"] = cell.reason
                elif isinstance(cell, Cell) and cell.missing:
                    found[f"{title}, {_small(column.title)}"] = cell.missing
        return found

    @property
    def not_evaluated(self) -> str:
        """What nobody asked for, by column; empty if nothing is left out."""
        left = [_small(column.title) for column in self.empty]
        for column in self.tasks:
            rows = [_small(title) for e, title in ENCODERS.items() if self.cell(e, column) == NOT_EVALUATED]
            if rows:
                left.append(f"{_small(column.title)} ({', '.join(rows)})")
        return "; ".join(left)


def make_table(dataset: str, scores: list[Score], folder: Path, preset: str) -> Table:
    """The scores on a dataset by its protocols, and why numbers are missing.

    Args:
        dataset: the dataset's name.
        scores: of one run; those on other datasets do not count.
        folder: where failed tasks have left their reasons.
        preset: the run's, for the paper's numbers.
    """
    mine = [score for score in scores if score.dataset == dataset]
    shown: list[Column] = []
    empty: list[Column] = []
    cells: dict[tuple[EvaluatedEncoder, Column], Cell | MissingCell] = {}
    chances: dict[Column, float] = {}
    for column in columns_of(dataset, mine):
        of_column = [score for score in mine if column.holds(score)]
        for encoder in ENCODERS:
            same = [score for score in of_column if score.encoder == encoder]
            cells[encoder, column] = _cell(dataset, column, encoder, same, folder)
        holes = [cell for e in ENCODERS if isinstance(cell := cells[e, column], MissingCell)]
        if len(holes) == len(ENCODERS) and not any(hole.failed for hole in holes):
            empty.append(column)
            continue
        shown.append(column)
        if of_column:
            chances[column] = of_column[0].chance * (5 if column.top5 else 1)
        base = cells["random", column]
        for encoder in ENCODERS:
            cell = cells[encoder, column]
            if encoder != "random" and isinstance(cell, Cell) and isinstance(base, Cell):
                cells[encoder, column] = replace(cell, gain=cell.mean - base.mean)
    return Table(dataset, tuple(shown), tuple(empty), cells, chances, _paper(dataset, shown, mine, preset))


def columns_of(dataset: str, scores: Sequence[Score]) -> list[Column]:
    """A dataset's protocols, and after each fine-tuning its top-5 where scores have one."""
    columns: list[Column] = []
    for setup in EVAL_SPECS.get(dataset, EVAL_SPECS["embedded"]):
        top5 = Column(setup, top5=True)
        columns.append(Column(setup))
        if setup.protocol == "finetune" and any(top5.holds(score) for score in scores):
            columns.append(top5)
    return columns


def of_split(scores: Iterable[Score], column: Column, split: str) -> list[float] | None:
    """The numbers by fold of one encoder's scores on a split, in [0, 1]; None if a fold is missing.

    Args:
        scores: on one dataset, by one encoder of one run.
        column: which of them count.
        split: `FIRST_SPLIT` or `ALL_SPLITS`.
    """
    found = {score.fold: column.value(score) for score in scores if column.holds(score)}
    folds = range(1, (1 if split == FIRST_SPLIT else column.setup.folds) + 1)
    return [found[fold] for fold in folds] if found.keys() >= set(folds) else None


def paper_number(
    preset: str, encoder: str, dataset: str, column: Column, split: str, ours: float | None
) -> Paper | None:
    """What the paper prints for an encoder of a preset; None if nothing.

    Args:
        ours: the number it is compared with, in percent.
    """
    if column.top5:
        return None
    kind = (preset, encoder, dataset, column.setup.modality, column.setup.protocol, split)
    for p in paper_results():
        if (p.preset, p.encoder, p.dataset, p.modality, p.protocol, p.split) == kind:
            return Paper(p.percent, p.source, None if ours is None else ours - p.percent)
    return None


def _paper(
    dataset: str, columns: Sequence[Column], scores: list[Score], preset: str
) -> dict[str, dict[Column, Paper]]:
    rows: dict[str, dict[Column, Paper]] = {}
    for encoder in PUBLISHED:
        mine = [score for score in scores if score.encoder == encoder]
        for split, words in SPLITS.items():
            for column in columns:
                values = of_split(mine, column, split)
                ours = 100 * fmean(values) if values else None
                number = paper_number(preset, encoder, dataset, column, split, ours)
                if number:
                    kind = f", {words}" if column.setup.folds > 1 else ""
                    title = f"The paper's {encoder}{kind} ({number.source})"
                    rows.setdefault(title, {})[column] = number
    return rows


def _cell(
    dataset: str, column: Column, encoder: EvaluatedEncoder, scores: list[Score], folder: Path
) -> Cell | MissingCell:
    """The number that the scores of a column's folds make, and what it lacks."""
    setup = column.setup
    if (encoder, setup.protocol) == ("raw", "finetune"):
        return NOTHING_TO_TUNE
    reasons: dict[str, list[int]] = {}
    for fold in sorted(set(range(1, setup.folds + 1)) - {score.fold for score in scores}):
        failed = folder / f"{task_name(dataset, setup.modality, setup.protocol, encoder, fold)}.failed"
        reason = failed.read_text().strip() if failed.is_file() else NOT_EVALUATED.reason
        reasons.setdefault(reason, []).append(fold)
    if not scores:
        if [*reasons] == [NOT_EVALUATED.reason]:
            return NOT_EVALUATED
        return MissingCell(_by_fold(reasons) if len(reasons) > 1 else next(iter(reasons)), failed=True)
    return replace(cell_of(column, scores), missing=_by_fold(reasons))


def _by_fold(reasons: dict[str, list[int]]) -> str:
    return "; ".join(
        f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}: {reason}"
        for reason, folds in reasons.items()
    )


def cell_of(column: Column, scores: Sequence[Score]) -> Cell:
    """The mean and the spread of the scores of one task over its folds."""
    values = [column.value(score) for score in scores]
    mean = fmean(values)
    spread = 0.0
    if len(values) > 1:
        spread = stdev(values)
    elif scores[0].metric == "top1":
        spread = math.sqrt(mean * (1 - mean) / scores[0].test_clips)
    return Cell(mean, spread, tuple(scores))


def lines(table: Table) -> list[Line]:
    """The table's rows as text in percent: the encoders with their gains, then `references`."""
    rows = [
        Line(title, [cell_text(table.cell(encoder, column)) for column in table.columns])
        for encoder, title in ENCODERS.items()
    ]
    return rows + references(table)


def references(table: Table) -> list[Line]:
    """The rows that are not ours, as text in percent: the paper's numbers, and chance."""
    rows = [
        Line(title, [str(numbers.get(column, "")) for column in table.columns], reference=True)
        for title, numbers in table.paper.items()
    ]
    if table.chances:
        guesses = [f"{100 * table.chances[c]:.1f}" if c in table.chances else "" for c in table.columns]
        rows.append(Line("Chance", guesses, reference=True))
    return rows


def cell_text(cell: Cell | MissingCell) -> str:
    """A cell in percent: of several folds with their deviation and how many they are; with its gain."""
    if isinstance(cell, MissingCell):
        return "missing" if cell.failed else NOTHING
    folds = f" {deviation(cell)}" if len(cell.scores) > 1 else ""
    gain = f" ({100 * cell.gain:+.1f})" if cell.gain is not None else ""
    return f"{100 * cell.mean:.1f}{folds}{gain}"


def deviation(cell: Cell) -> str:
    """The deviation over a cell's folds in points, and how many they are."""
    return f"± {100 * cell.spread:.1f} (n={len(cell.scores)})"


def _small(title: str) -> str:
    return title[:1].lower() + title[1:]
