"""The collapse watch over all runs: what its signals predict, and how often its verdict is right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import NamedTuple

import numpy as np

from xkd.ablation.result import LEVEL, RESAMPLES, Measurement, Result, difference
from xkd.ablation.tables import Column
from xkd.config import MODALITIES
from xkd.evaluation.score import EvaluatedModality
from xkd.model.terms import FEATURE_RANK, INFORMATION, KLD, TEACHER_ENTROPY, direction
from xkd.rundir import Row as Metrics
from xkd.rundir import RunDir, Verdict

SIGNALS: dict[str, dict[str, str]] = {
    "KLD": {m: KLD[direction(m)] for m in MODALITIES},
    "information": {m: INFORMATION[direction(m)] for m in MODALITIES},
    "teacher entropy": {m: TEACHER_ENTROPY[direction(m)] for m in MODALITIES},
    "effective rank": {m: FEATURE_RANK[m] for m in MODALITIES},
}
"""Fields of the metrics that may predict a score, by signal and the modality of the teacher."""
FRACTIONS = (0.1, 0.5)
"""Shares of the schedule after which the signals are read."""
_REACH = 0.05
"""Share of the schedule before and after, over whose rows a signal's median is taken."""
_FEWEST = 5
"""Runs that a correlation needs."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A run with teachers and its teachers' scores."""

    preset: str
    seed: int
    verdict: Verdict
    metrics: Sequence[Metrics]
    scores: Mapping[Column, Measurement]
    untrained: Mapping[Column, Measurement]
    """Of random initializations of the default's encoders with the same seed."""

    @property
    def steps(self) -> int:
        """Number of steps of the run."""
        return int(self.metrics[-1]["step"])

    @property
    def gains(self) -> dict[Column, float]:
        """Points that a teacher scores above a random initialization."""
        return {
            column: score.percent - self.untrained[column].percent
            for column, score in self.scores.items()
            if column in self.untrained
        }

    @property
    def learned(self) -> bool:
        """Whether a teacher scores above a random initialization by more than the noise of test clips."""
        return any(difference([(self.scores[c], self.untrained[c])]).sign > 0 for c in self.gains)

    def signal(self, name: str, modality: EvaluatedModality, fraction: float) -> float | None:
        """Return a signal of `SIGNALS` after a share of the schedule; None if it was not logged there."""
        field = SIGNALS[name][modality]
        near = [
            row[field]
            for row in self.metrics
            if field in row and abs(row["step"] / self.steps - fraction) <= _REACH
        ]
        return median(near) if near else None


class Prediction(NamedTuple):
    """The rank correlation of an early signal and the final score over runs, and its interval."""

    signal: str
    column: Column
    fraction: float
    correlation: float
    low: float
    high: float
    runs: int


def observe(results: Sequence[Result], scale: str, runs: Path) -> list[Observed]:
    """Return the runs of results that have teachers, each once.

    Args:
        runs: folder of the runs.
    """
    untrained = {
        (seed, column.measured): score
        for result in results
        for row in result.rows
        if row.row.role == "random"
        for column, cell in zip(result.columns, row.cells, strict=True)
        for seed, score in cell.seeds.items()
    }
    trained = dict[tuple[str, int], RunDir]()
    scores = defaultdict[tuple[str, int], dict[Column, Measurement]](dict)
    for result in results:
        for row in result.rows:
            if row.row.role != "teacher" or row.row.epoch is not None:
                continue
            for seed in range(len(row.verdicts)):
                run = row.row.directory(runs, scale, seed)
                if run.ended and run.metrics():
                    trained[row.row.preset, seed] = run
            # A run has scores of every table that it is in.
            for column, cell in zip(result.columns, row.cells, strict=True):
                for seed, score in cell.seeds.items():
                    scores[row.row.preset, seed][column.measured] = score
    return [
        Observed(
            preset=preset,
            seed=seed,
            verdict=run.verdict(),
            metrics=run.metrics(),
            scores=scores[preset, seed],
            untrained={c: untrained[seed, c] for c in scores[preset, seed] if (seed, c) in untrained},
        )
        for (preset, seed), run in trained.items()
    ]


def scored_columns(runs: Sequence[Observed]) -> list[Column]:
    """Return what runs are scored on."""
    return list(dict.fromkeys(column for run in runs for column in run.scores))


def comparable(runs: Sequence[Observed]) -> list[Observed]:
    """Return the runs with the most frequent number of steps: those of longer ones score higher anyway."""
    ((steps, _),) = Counter(run.steps for run in runs).most_common(1) or [(0, 0)]
    return [run for run in runs if run.steps == steps]


def predictions(runs: Sequence[Observed]) -> list[Prediction]:
    """Return how early signals correlate with final scores, for all signals with enough runs.

    The correlation is Spearman's; its interval is of a bootstrap over runs.
    """
    found = []
    for name in SIGNALS:
        for column in scored_columns(runs):
            for fraction in FRACTIONS:
                pairs = points(runs, name, column, fraction)
                if len(pairs) >= _FEWEST and all(len(set(side)) > 1 for side in zip(*pairs, strict=True)):
                    found.append(Prediction(name, column, fraction, *_correlate(pairs), len(pairs)))
    return found


def points(runs: Sequence[Observed], name: str, column: Column, fraction: float) -> list[tuple[float, float]]:
    """Return an early signal and the final score in percent, of all runs that have both."""
    return [
        (value, run.scores[column].percent)
        for run in runs
        if column in run.scores and (value := run.signal(name, column.modality, fraction)) is not None
    ]


def _correlate(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the rank correlation of pairs, and its interval."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # slow import

    values, random = np.array(pairs).T, np.random.default_rng(0)
    drawn = random.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    ranks = rankdata(values[:, drawn], axis=-1)
    centered = ranks - ranks.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centered**2).sum(axis=-1).prod(axis=0))
    sampled = centered.prod(axis=0).sum(axis=-1)[spread > 0] / spread[spread > 0]
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(sampled, [tail, 100 - tail])
    return float(np.corrcoef(rankdata(values, axis=-1))[0, 1]), float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Runs with scores that the watch has called a collapse, or those that it has not."""

    called: bool
    runs: Sequence[Observed]

    @property
    def wrong(self) -> list[Observed]:
        """False alarms, or runs that were missed: by what they learned, the verdict is not right."""
        return [run for run in self.runs if run.learned is self.called]

    @property
    def learned(self) -> int:
        """Number of runs that learned."""
        return sum(run.learned for run in self.runs)

    def gain(self, column: Column) -> tuple[float, float] | None:
        """Return the mean gain of a teacher and its standard deviation; None with fewer than two runs."""
        gains = [run.gains[column] for run in self.runs if column in run.gains]
        return (fmean(gains), stdev(gains)) if len(gains) > 1 else None


def judge_verdicts(runs: Sequence[Observed]) -> tuple[Judged, Judged]:
    """Return the runs that have scores: called a collapse, and not called."""
    scored = [run for run in runs if run.gains]
    called, others = ([run for run in scored if run.verdict.failed is failed] for failed in (True, False))
    return Judged(called=True, runs=called), Judged(called=False, runs=others)
