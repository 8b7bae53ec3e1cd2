"""The collapse watch over all runs: what its signals predict, and how often its verdict is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xkd.ablation.result import LEVEL, RESAMPLES, Measurement, Result, difference
from xkd.config import MODALITIES, Modality
from xkd.model.terms import FEATURE_RANK, INFORMATION, KLD, TEACHER_ENTROPY, direction
from xkd.rundir import Row as Metrics
from xkd.rundir import Verdict

SIGNALS = {
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
    scores: Mapping[Modality, Measurement]
    untrained: Mapping[Modality, Measurement]
    """Of random initializations of the default's encoders with the same seed."""

    @property
    def steps(self) -> int:
        """Number of steps of the run."""
        return int(self.metrics[-1]["step"])

    @property
    def gains(self) -> dict[Modality, float]:
        """Points that a teacher scores above a random initialization."""
        return {
            m: score.percent - self.untrained[m].percent
            for m, score in self.scores.items()
            if m in self.untrained
        }

    @property
    def learned(self) -> bool:
        """Whether a teacher scores above a random initialization by more than the noise of test clips."""
        return any(difference([(self.scores[m], self.untrained[m])]).sign > 0 for m in self.gains)

    def signal(self, name: str, modality: Modality, fraction: float) -> float | None:
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
    modality: Modality
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
    untrained: dict[tuple[int, str], Measurement] = {
        (seed, column.measured.modality): score
        for result in results
        for row in result.rows
        if row.row.role == "random"
        for column, cell in zip(result.columns, row.cells, strict=True)
        for seed, score in cell.seeds.items()
    }
    found = dict[Path, Observed]()
    for result in results:
        for row in result.rows:
            if row.row.role != "teacher" or row.row.epoch is not None:
                continue
            for seed in range(len(row.verdicts)):
                run = row.row.directory(runs, scale, seed)
                if not run.ended or run.path in found:
                    continue
                scores: dict[str, Measurement] = {
                    column.measured.modality: cell.seeds[seed]
                    for column, cell in zip(result.columns, row.cells, strict=True)
                    if seed in cell.seeds
                }
                found[run.path] = Observed(
                    preset=row.row.preset,
                    seed=seed,
                    verdict=run.verdict(),
                    metrics=run.metrics(),
                    scores={m: scores[m] for m in MODALITIES if m in scores},
                    untrained={m: untrained[seed, m] for m in MODALITIES if (seed, m) in untrained},
                )
    return list(found.values())


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
        for modality in MODALITIES:
            for fraction in FRACTIONS:
                pairs = points(runs, name, modality, fraction)
                if len(pairs) >= _FEWEST and all(len(set(side)) > 1 for side in zip(*pairs, strict=True)):
                    found.append(Prediction(name, modality, fraction, *_correlate(pairs), len(pairs)))
    return found


def points(
    runs: Sequence[Observed], name: str, modality: Modality, fraction: float
) -> list[tuple[float, float]]:
    """Return an early signal and the final score in percent, of all runs that have both."""
    return [
        (value, run.scores[modality].percent)
        for run in runs
        if modality in run.scores and (value := run.signal(name, modality, fraction)) is not None
    ]


def _correlate(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the rank correlation of pairs, and its interval."""
    ranks = np.stack([_rank(side) for side in zip(*pairs, strict=True)])
    random = np.random.default_rng(0)
    # Ranks of a sample's own values differ from these only in scale and ties.
    drawn = ranks[:, random.integers(len(pairs), size=(RESAMPLES, len(pairs)))]
    centered = drawn - drawn.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centered**2).sum(axis=-1).prod(axis=0))
    sampled = centered.prod(axis=0).sum(axis=-1)[spread > 0] / spread[spread > 0]
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(sampled, [tail, 100 - tail])
    return float(np.corrcoef(ranks)[0, 1]), float(low), float(high)


def _rank(values: ArrayLike) -> NDArray[np.floating]:
    """Return the ranks of values, equal ones with the mean of theirs."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values) + np.searchsorted(ordered, values, side="right")) / 2


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

    def gain(self, modality: Modality) -> tuple[float, float] | None:
        """Return the mean gain of a teacher and its standard deviation; None with fewer than two runs."""
        gains = [run.gains[modality] for run in self.runs if modality in run.gains]
        return (fmean(gains), stdev(gains)) if len(gains) > 1 else None


def judge_verdicts(runs: Sequence[Observed]) -> tuple[Judged, Judged]:
    """Return the runs that have scores: called a collapse, and not called."""
    scored = [run for run in runs if run.gains]
    called, others = ([run for run in scored if run.verdict.failed is failed] for failed in (True, False))
    return Judged(called=True, runs=called), Judged(called=False, runs=others)
