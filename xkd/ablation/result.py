"""What the runs of a table show: scores, differences to the default with their intervals, and the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xkd.ablation.grid import MeasuredColumn, Row, columns, paper_percent, reference, rows, tasks
from xkd.ablation.plan import plan_runs, total_epochs
from xkd.ablation.tables import Column, Table
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.evaluation.score import Score, Task, read_failures, score_path
from xkd.monitor.collapse import CollapseThresholds, find_onset
from xkd.rundir import RunDir

RUNS = "runs"
"""Folder of the runs in the output folder."""
RESAMPLES = 10_000
"""Samples that the bootstrap draws."""
LEVEL = 0.95
"""Share of those samples that an interval covers."""

Outcome = Literal[
    "same sign", "opposite sign", "within noise", "mixed in the paper", "equal in the paper", ""
]


@dataclass(frozen=True)
class Measurement:
    """The score of a run in a column."""

    folds: Sequence[NDArray[np.int8]]
    """Of each fold, which of its test clips were recognized: 1 or 0, (clips,)."""

    @property
    def percent(self) -> float:
        """The mean top-1 over the folds."""
        return 100 * fmean(float(recognized.mean()) for recognized in self.folds)


class Difference(NamedTuple):
    """The difference of two rows in points, paired over the seeds that both have, and its interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """0 if the interval contains 0."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A score of a row, its difference to that of the row's reference, and the paper's."""

    seeds: Mapping[int, Measurement]
    missing: Mapping[int, str]
    """Why seeds have no score."""
    difference: Difference | None
    """None without a reference or common seeds."""
    paper: tuple[float | None, ...]
    """By the column's evaluations of the paper."""
    paper_differences: tuple[float | None, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN if there are none."""
        return fmean(each.percent for each in self.seeds.values()) if self.seeds else float("nan")

    @property
    def std(self) -> float | None:
        """Standard deviation over the seeds; None with fewer than two."""
        return stdev(each.percent for each in self.seeds.values()) if len(self.seeds) > 1 else None

    @property
    def outcome(self) -> Outcome:
        """Whether the sign of the difference is the paper's; empty if one of them gives none."""
        paper = [change for change in self.paper_differences if change is not None]
        if self.difference is None or not paper:
            return ""
        if not self.difference.sign:
            return "within noise"
        signs = {(change > 0) - (change < 0) for change in paper} - {0}
        if len(signs) != 1:
            return "mixed in the paper" if signs else "equal in the paper"
        return "same sign" if signs == {self.difference.sign} else "opposite sign"


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A row with its cells."""

    row: Row
    cells: tuple[Cell, ...]
    verdicts: tuple[str, ...]
    """Of the runs, by seed; a random initialization has none."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A table with what was measured."""

    table: Table
    columns: tuple[MeasuredColumn, ...]
    rows: tuple[ResultRow, ...]
    impossible: Mapping[str, str]
    """Why presets of the table do not exist at the scale."""
    epochs: int
    """Of the table's default."""


def find_score(run: RunDir, dataset: PreparedDataset, task: Task) -> Score | None:
    """Return the score of a task, if there is one of its settings and this data."""
    path = score_path(run.scores, task.name)
    if not path.is_file():
        return None
    score = Score.read(path)
    current = score.has_recognized and not score.differences(dataset.identity | task.identity)
    return score if current else None


def collect(
    table: Table,
    scale: str,
    seeds: int,
    datasets: Mapping[str, PreparedDataset],
    settings: Sequence[str],
    runs: Path,
) -> Result:
    """Read the runs and scores of a table.

    Args:
        seeds: number of seeds of every row; those with more runs have more.
        settings: applied to every run.
        datasets: those that the runs were evaluated on, by name; at a small scale, the first.
        runs: folder of the runs.
    """
    chosen = rows(table, scale, settings)
    shown = tuple(columns(table, scale, next(iter(datasets))))
    directories = {row: _directories(row, scale, seeds, runs) for row in chosen}
    measured = {
        row: [_measure(row, each.measured, directories[row], datasets) for each in shown] for row in chosen
    }
    return Result(
        table=table,
        columns=shown,
        rows=tuple(
            ResultRow(
                row=row,
                cells=tuple(
                    _cell(row, reference(row, table), column, number, measured)
                    for number, column in enumerate(shown)
                ),
                verdicts=() if row.role == "random" else tuple(map(describe_run, directories[row])),
            )
            for row in chosen
        ),
        impossible=plan_runs([table], scale, seeds, settings).impossible,
        epochs=total_epochs(table, scale, settings),
    )


_Measured = tuple[dict[int, Measurement], dict[int, str]]
"""Scores by seed, and why others are missing."""


def _directories(row: Row, scale: str, seeds: int, runs: Path) -> list[RunDir]:
    """Return a row's runs by seed: as many as asked for, and those that another command trained."""
    found = [row.directory(runs, scale, seed) for seed in range(seeds)]
    while (run := row.directory(runs, scale, len(found))).config_file.is_file():
        found.append(run)
    return found


def _measure(
    row: Row, column: Column, directories: Sequence[RunDir], datasets: Mapping[str, PreparedDataset]
) -> _Measured:
    found, missing = dict[int, Measurement](), dict[int, str]()
    for seed, run in enumerate(directories):
        try:
            wanted = tasks(row, column, datasets, seed)
        except UserError as error:
            missing[seed] = str(error)
            continue
        scores = [score for each in wanted if (score := find_score(run, *each))]
        if len(scores) == len(wanted):
            folds = [np.frombuffer(score.recognized.encode(), np.int8) - ord("0") for score in scores]
            found[seed] = Measurement(folds)
        elif not run.ended or not run.encoders.is_dir():
            missing[seed] = describe_run(run)
        else:
            failures = read_failures(run.scores, run)
            missing[seed] = next((failures[t.key] for _, t in wanted if t.key in failures), "not evaluated")
    return found, missing


def _cell(
    row: Row, other: Row | None, column: MeasuredColumn, number: int, measured: Mapping[Row, list[_Measured]]
) -> Cell:
    seeds, missing = measured[row][number]
    theirs = measured[other][number][0] if other else {}
    common = [(seeds[seed], theirs[seed]) for seed in seeds if seed in theirs]
    paper, before = (
        [
            paper_percent(each.preset, each.role, c) if each and each.epoch is None else None
            for c in column.paper
        ]
        for each in (row, other)
    )
    return Cell(
        seeds=seeds,
        missing=missing,
        difference=difference(common) if common else None,
        paper=tuple(paper),
        paper_differences=tuple(
            None if a is None or b is None else a - b for a, b in zip(paper, before, strict=True)
        ),
    )


def difference(pairs: Sequence[tuple[Measurement, Measurement]]) -> Difference:
    """Return the mean difference of paired scores, with the interval of a bootstrap.

    Seeds, and within each fold test clips, are drawn with replacement. All scores are of the same clips: a
    draw of clips is common to both of a pair and to all seeds, so that neither clips that are easy for both
    widen the interval, nor more seeds make up for few clips. The interval of a single pair leaves out how
    much seeds differ.
    """
    random, count = np.random.default_rng(0), len(pairs)
    seeds = random.multinomial(count, [1 / count] * count, size=RESAMPLES) / count
    sampled, folds = np.zeros(RESAMPLES), len(pairs[0][0].folds)
    for fold in range(folds):
        gains = np.stack([ours.folds[fold] - theirs.folds[fold] for ours, theirs in pairs])
        # Clips with the same gains over the seeds are drawn together: there are few such groups.
        groups, sizes = np.unique(gains, axis=1, return_counts=True)
        clips = random.multinomial(gains.shape[1], sizes / gains.shape[1], size=RESAMPLES) / gains.shape[1]
        sampled += (seeds * (clips @ groups.T)).sum(axis=1) / folds
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(100 * sampled, [tail, 100 - tail])
    return Difference(fmean(ours.percent - theirs.percent for ours, theirs in pairs), float(low), float(high))


def describe_run(run: RunDir) -> str:
    """Return a run's verdict in words, such as ``collapsed: constant from step 120 on``."""
    if not run.config_file.is_file():
        return "not trained"
    if not run.ended:
        return "not trained to its end"
    verdict = run.verdict()
    if verdict.verdict in ("one_hot", "constant"):
        history, thresholds = run.metrics(), CollapseThresholds.of_run(run.config(), run.info())
        onset = f" from step {find_onset(history, thresholds)} on" if history else ""
        return f"collapsed: {verdict.verdict.replace('_', '-')}{onset}"
    return f"{verdict.verdict.replace('_', '-')}: {verdict.reason}" if verdict.failed else verdict.verdict
