"""The tables of a report, as views of the long-format table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from xkd.config.presets.paper_results import ALL_SPLITS
from xkd.evaluation.protocols import PROTOCOLS
from xkd.evaluation.score import EvaluatedEncoder
from xkd.report.aggregate import (
    ENCODERS,
    NOT_EVALUATED,
    SPLITS,
    Column,
    Group,
    Record,
    untrained,
)
from xkd.rundir import ROLES

MAX_COLUMNS = 4
"""Columns of a comparison that fit on a page."""
EMPTY = "\N{EN DASH}"
"""Text of a cell that was not evaluated."""


class Line(NamedTuple):
    """A row of a table as text."""

    title: str
    cells: Sequence[str]
    reference: bool = False
    """Whether the numbers are not ours."""


class DatasetTable:
    """The scores of a run on one dataset: rows of `ENCODERS`, columns of the dataset's protocols."""

    def __init__(self, dataset: str, records: Iterable[Record]) -> None:
        self.dataset = dataset
        self._records = {(r.encoder, r.column): r for r in records if r.column.dataset == dataset}
        overall = {column: None for _, column in self._records if column.split == ALL_SPLITS}
        self.columns = [c for c in overall if any(r.mean is not None or r.failed for r in self.column(c))]
        """Columns with a score or a failed task."""
        self.unused = [column for column in overall if column not in self.columns]
        self.tasks = [column for column in self.columns if not column.top5]
        """Columns without top-5, which belongs to the same tasks as top-1."""
        chances = {column: self.column(column)[0].chance for column in self.columns}
        self.chances = {column: chance for column, chance in chances.items() if chance is not None}
        """Score of guessing in percent, of the columns with a score."""
        self.encoders = {
            encoder: title
            for encoder, title in ENCODERS.items()
            if any(self[encoder, c].mean is not None or self[encoder, c].failed for c in self.columns)
        }
        """Titles of the rows with a score or a failed task."""

    def __getitem__(self, key: tuple[EvaluatedEncoder, Column]) -> Record:
        return self._records[key]

    def column(self, column: Column) -> list[Record]:
        """Return the records of a column by `ENCODERS`."""
        return [self._records[encoder, column] for encoder in ENCODERS]

    def best(self, column: Column) -> Record | None:
        """Return the teacher's record, or else the student's; None if neither was evaluated."""
        records = (self._records[role, column] for role in ROLES)
        return next((record for record in records if record.mean is not None), None)

    def gain(self, record: Record) -> float | None:
        """Return the difference to the random initialization, in points; None in its own row."""
        random = self._records["random", record.column]
        if record is random or record.mean is None or random.mean is None:
            return None
        return record.mean - random.mean

    @property
    def measure(self) -> str:
        """What the numbers are, and rows and columns that need a word."""
        protocols = {column.spec.protocol for column in self.columns}
        text = "In %."
        if protocols & {"svm", "fusion"}:
            text = "Top-1 accuracy of a linear SVM on frozen features unless the column says otherwise, in %."
        if "fusion" in protocols:
            text += " Late fusion: one SVM on the features of the video and the audio encoder together."
        if "raw" in self.encoders:
            text += " Raw input: frames and spectrogram themselves, without an encoder."
        return text

    @property
    def missing(self) -> dict[str, str]:
        """Why scores, or folds of scores, are missing, by "row, column"."""
        records = [self[encoder, column] for encoder in ENCODERS for column in self.tasks]
        return {
            f"{ENCODERS[r.encoder]}, {r.column.small_title}": r.missing
            for r in records
            if r.failed or (r.missing and r.mean is not None)
        }

    @property
    def untrained(self) -> dict[str, str]:
        """Classes without training clips, by column."""
        found = {column.small_title: untrained(self.column(column)) for column in self.tasks}
        return {title: classes for title, classes in found.items() if classes}

    @property
    def not_evaluated(self) -> str:
        """Tasks that were not run, by column; empty if there are none."""
        found = [column.small_title for column in self.unused]
        for column in self.tasks:
            rows = [r for r in self.column(column) if r.mean is None and r.missing == NOT_EVALUATED]
            if rows:
                titles = ", ".join(ENCODERS[r.encoder].lower() for r in rows)
                found.append(f"{column.small_title} ({titles})")
        return "; ".join(found)

    def lines(self) -> list[Line]:
        """Return the rows as text in percent: the encoders with their gains, then `references`."""
        rows = [
            Line(title, [self._text(self[encoder, column]) for column in self.columns])
            for encoder, title in self.encoders.items()
        ]
        return rows + self.references()

    def references(self) -> list[Line]:
        """Return the paper's numbers and chance as text in percent."""
        papers: dict[str, dict[Column, str]] = {}
        for role, split, column in product(ROLES, SPLITS, self.columns):
            record = self._records.get((role, replace(column, split=split)))
            if record and record.paper:
                words = f", {SPLITS[split]}" if column.spec.folds > 1 else ""
                title = f"The paper's {role}{words} ({record.paper.source})"
                papers.setdefault(title, {})[column] = format_paper(record)
        lines = [
            Line(title, [numbers.get(column, "") for column in self.columns], reference=True)
            for title, numbers in papers.items()
        ]
        if self.chances:
            cells = [f"{self.chances[c]:.1f}" if c in self.chances else "" for c in self.columns]
            lines.append(Line("Chance", cells, reference=True))
        return lines

    def _text(self, record: Record) -> str:
        if record.mean is None:
            return "missing" if record.failed else EMPTY
        gain = self.gain(record)
        return format_mean(record) + ("" if gain is None else f" ({gain:+.1f})")


class Block(NamedTuple):
    """Columns of one kind that fit on a page."""

    title: str
    columns: tuple[Column, ...]

    @property
    def head(self) -> list[str]:
        """Titles of the columns."""
        return [f"{column.dataset}: {column.small_title}" for column in self.columns]


class Comparison:
    """The scores of one or several runs: rows are groups of runs and their published encoders.

    Only records with every fold are compared.
    """

    def __init__(self, groups: Sequence[Group], records: Sequence[Record]) -> None:
        self.runs = [run for group in groups for run in group.runs]
        self.groups = groups
        self.records = [record for record in records if record.complete]
        self._records = {(r.group, r.encoder, r.column): r for r in records}

    def __getitem__(self, key: tuple[Group, EvaluatedEncoder, Column]) -> Record:
        return self._records[key]

    @property
    def several(self) -> bool:
        """Whether there is more than one run."""
        return len(self.runs) > 1

    @property
    def notes(self) -> list[str]:
        """Return sentences about runs without scores and about classes without training clips."""
        collapsed = [
            f"Run {run.dir.name} has the verdict {run.verdict_title} and was not evaluated."
            if run.finished
            else f"Run {run.dir.name} was imported and is not evaluated yet."
            if run.state == "imported"
            else f"Run {run.dir.name} has not finished."
            for run in self.runs
            if run.skipped_evaluation
        ]
        columns = dict.fromkeys(
            column for block in self.blocks for column in block.columns if not column.top5
        )
        missing = {
            f"{column.dataset}: {column.small_title}": untrained(
                r for r in self.records if r.column == column
            )
            for column in columns
        }
        without = (f"No training clips, {title}: {classes}." for title, classes in missing.items() if classes)
        return [*collapsed, *dict.fromkeys(without)]

    @property
    def blocks(self) -> list[Block]:
        """The columns with a number of a published encoder, by kind as in the paper's tables."""
        published = {record.column for record in self.records if record.encoder in ROLES}
        kinds: dict[str, list[Column]] = {}
        for column in dict.fromkeys(column for _, _, column in self._records):
            if column in published:
                how = "Fine-tuning" if PROTOCOLS[column.spec.protocol].trains_encoder else "Linear evaluation"
                how = "Cross-modal retrieval" if column.spec.metric == "recall" else how
                kinds.setdefault(f"{how}, {SPLITS[column.split]}", []).append(column)
        # Backwards: linear evaluation before fine-tuning, split 1 before all splits.
        return [
            Block(kind, tuple(kinds[kind][start : start + MAX_COLUMNS]))
            for kind in sorted(kinds, reverse=True)
            for start in range(0, len(kinds[kind]), MAX_COLUMNS)
        ]

    def rows(self, columns: Sequence[Column]) -> list[tuple[Group, EvaluatedEncoder]]:
        """Return the groups and published encoders that have a number in one of the columns."""
        keys = product(self.groups, ROLES)
        return [key for key in keys if any(self[*key, column].complete for column in columns)]

    def lines(self, columns: Sequence[Column]) -> list[Line]:
        """Return the rows as text: each encoder, followed by the paper's numbers for it."""
        lines = []
        for group, encoder in self.rows(columns):
            records = [self[group, encoder, column] for column in columns]
            cells = [format_mean(r, over=True) if r.complete else EMPTY for r in records]
            lines.append(Line(f"{group.title}, {encoder}", cells))
            sources = dict.fromkeys(r.paper.source for r in records if r.paper)
            if sources:
                title = f"the paper's {encoder} ({'; '.join(sources)})"
                lines.append(Line(title, [format_paper(r) for r in records], reference=True))
        return lines


def format_mean(record: Record, over: bool = False) -> str:
    """Return the mean in percent, with the standard deviation and, if `over`, what it is taken over."""
    return f"{record.mean:.1f}" + (f" {format_std(record, over)}" if record.std is not None else "")


def format_std(record: Record, over: bool = False) -> str:
    """Return the standard deviation in points and the number of values."""
    return f"± {record.std:.1f} (n={record.n}{f' {record.over}' * over})"


def format_paper(record: Record) -> str:
    """Return the paper's number, if there is one, and the difference of ours to it."""
    if record.paper is None:
        return ""
    difference = record.paper_difference
    return f"{record.paper.percent:.1f}" + ("" if difference is None else f" (ours {difference:+.1f})")
