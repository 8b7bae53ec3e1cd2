"""The long-format table of scores: one record per group of runs, encoder, column and split."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean, stdev
from typing import Literal

from xkd.config.overrides import to_dict
from xkd.config.presets.paper_results import ALL_SPLITS, FIRST_SPLIT, PaperResult, paper_results
from xkd.evaluation.metrics import METRIC_NAMES
from xkd.evaluation.protocols import PROTOCOLS
from xkd.evaluation.score import EvaluatedEncoder, EvaluatedModality, Score, TaskKey
from xkd.evaluation.specs import EVAL_SPECS, EvalSpec, own_specs
from xkd.report.load import EvaluatedRun

ENCODERS: dict[EvaluatedEncoder, str] = {
    "teacher": "Teacher",
    "student": "Student",
    "random": "Random initialization",
    "raw": "Raw input",
}
"""Rows of a table, and their titles."""
SPLITS = {FIRST_SPLIT: "split 1", ALL_SPLITS: "all splits"}
NOT_EVALUATED = "not evaluated"
MAX_NAMES = 20
"""Classes without training clips that a note names."""
_TITLES: dict[EvaluatedModality, str] = {"video": "Video", "audio": "Audio", "audiovisual": "Late fusion"}
_PROTOCOLS = {"fc": "FC", "finetune": "fine-tuned", "retrieval": "retrieval"}
"""Protocols that a column's title names; a linear SVM is the default."""


@dataclass(frozen=True)
class Column:
    """A metric of one protocol on one dataset, over the first split or all splits."""

    dataset: str
    spec: EvalSpec
    split: str = ALL_SPLITS
    top5: bool = False

    @property
    def metric(self) -> str:
        """Display name of the metric."""
        if self.top5:
            return "recall@5" if self.spec.metric == "recall" else "top-5"
        return METRIC_NAMES[self.spec.metric]

    @property
    def title(self) -> str:
        """Heading within the table of its dataset."""
        title, protocol = _TITLES[self.spec.modality], _PROTOCOLS.get(self.spec.protocol)
        if self.spec.protocol == "retrieval":
            return f"Video to audio, {protocol} ({self.metric})"
        return f"{title}, {protocol} ({self.metric})" if protocol else title

    @property
    def small_title(self) -> str:
        """The title within a sentence."""
        return self.title[:1].lower() + self.title[1:]

    @property
    def name(self) -> str:
        """Identifier in file names and in scores.json."""
        protocol = f"_{self.spec.protocol}" if self.spec.protocol in _PROTOCOLS else ""
        return f"{self.spec.modality}{protocol}{'_top5' * self.top5}"

    @property
    def folds(self) -> range:
        """Folds that the split consists of."""
        return range(1, 2 if self.split == FIRST_SPLIT else self.spec.folds + 1)

    def matches(self, score: Score) -> bool:
        """Whether a score has a value for this column."""
        key = (score.dataset, score.modality, score.protocol)
        return (
            key == (self.dataset, self.spec.modality, self.spec.protocol)
            and score.fold in self.folds
            and not (self.top5 and score.top5 is None)
        )

    def value(self, score: Score) -> float:
        """Return the value in [0, 1] of a score that `matches`."""
        return (score.top5 or 0.0) if self.top5 else score.score


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ only in the seed."""

    title: str
    runs: tuple[EvaluatedRun, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A row of the long-format table; numbers in percent."""

    group: Group
    encoder: EvaluatedEncoder
    column: Column
    mean: float | None
    """None if there are no scores."""
    std: float | None
    """Standard deviation over `over`; None for a single value."""
    n: int
    over: Literal["seeds", "folds"]
    scores: tuple[Score, ...]
    """The scores averaged: of runs with every fold, or else those of the first run."""
    complete: bool
    """Whether every fold of the split was evaluated; only such numbers are compared."""
    missing: str
    """Why the number, or some of its folds, are missing; empty if complete."""
    failed: bool
    """Whether one of the missing tasks failed."""
    chance: float | None
    paper: PaperResult | None

    @property
    def error(self) -> float:
        """Length of an error bar: `std`, or of a single share of clips the binomial standard error."""
        if self.std is not None or self.mean is None or self.scores[0].metric == "map":
            return self.std or 0.0
        return math.sqrt(self.mean * (100 - self.mean) / self.scores[0].test_clips)

    @property
    def paper_difference(self) -> float | None:
        """Our mean - the paper's, in points; None if either is missing or some folds are."""
        if self.paper is None or self.mean is None or not self.complete:
            return None
        return self.mean - self.paper.percent


def aggregate(groups: Sequence[Group], datasets: Iterable[str]) -> list[Record]:
    """Return the records of groups of runs on datasets, by group, encoder, dataset, column and split.

    Columns are those of the datasets' protocols, whether or not they were evaluated.
    """
    runs = [run for group in groups for run in group.runs]
    columns = [column for dataset in datasets for column in _columns(dataset, runs)]
    return [_record(group, encoder, column) for group in groups for encoder in ENCODERS for column in columns]


def _columns(dataset: str, runs: Sequence[EvaluatedRun]) -> list[Column]:
    """Return the columns of a dataset's protocols; fine-tuning and retrieval have top-5 if scores do."""
    scores = [score for run in runs for score in run.scores]
    columns = []
    for spec in EVAL_SPECS.get(dataset) or _own_specs(dataset, runs):
        splits = SPLITS if spec.folds > 1 else (ALL_SPLITS,)
        columns += [Column(dataset, spec, split) for split in splits]
        if PROTOCOLS[spec.protocol].trains_encoder or spec.metric == "recall":
            top5 = [Column(dataset, spec, split, top5=True) for split in splits]
            columns += top5 if any(map(top5[-1].matches, scores)) else []
    return columns


def _own_specs(dataset: str, runs: Sequence[EvaluatedRun]) -> tuple[EvalSpec, ...]:
    """Return the protocols by which a dataset of one's own was evaluated, whose scores tell metric and folds.

    Only these: its labels and modalities, which decide what else it could have, are not known here.
    """
    known = [score for run in runs for score in run.scores if score.dataset == dataset]
    failed = [key for run in runs for key in run.failures if key.dataset == dataset]
    folds = max([score.folds for score in known] + [key.fold for key in failed], default=1)
    metrics = {score.metric for score in known if score.metric != "recall"}
    evaluated = {(key.modality, key.protocol) for key in (*(score.key for score in known), *failed)}
    specs = own_specs(min(metrics, default="top1"), folds)
    return tuple(spec for spec in specs if (spec.modality, spec.protocol) in evaluated)


def _record(group: Group, encoder: EvaluatedEncoder, column: Column) -> Record:
    """Average a column over the folds of a run, and these means over the runs of a group."""
    of_column = [[score for score in run.scores if column.matches(score)] for run in group.runs]
    of_encoder = [[score for score in scores if score.encoder == encoder] for scores in of_column]
    every_fold = [scores for scores in of_encoder if len(scores) == len(column.folds)]
    counted = every_fold or of_encoder[:1]
    values = [[100 * column.value(score) for score in scores] for scores in counted if scores]
    means = [fmean(folds) for folds in values]
    averaged = means if len(means) > 1 else values[0] if values else []
    missing, failed = ("", False) if every_fold else _missing(group.runs[0], encoder, column, counted[0])
    first = next((score for scores in of_column for score in scores), None)
    preset, spec = group.runs[0].config.preset, column.spec
    key = (preset, encoder, column.dataset, spec.modality, spec.protocol, column.split)
    same = (result for result in paper_results() if key == astuple(result)[:6])
    return Record(
        group=group,
        encoder=encoder,
        column=column,
        mean=fmean(means) if means else None,
        std=stdev(averaged) if len(averaged) > 1 else None,
        n=len(averaged),
        over="seeds" if len(means) > 1 else "folds",
        scores=tuple(score for scores in counted for score in scores),
        complete=bool(every_fold),
        missing=missing,
        failed=failed,
        chance=100 * first.chance * (5 if column.top5 else 1) if first else None,
        paper=None if column.top5 else next(same, None),
    )


def _missing(
    run: EvaluatedRun, encoder: EvaluatedEncoder, column: Column, scores: Sequence[Score]
) -> tuple[str, bool]:
    """Return why scores of a column are missing, by fold, and whether one of them failed."""
    spec = column.spec
    if encoder not in PROTOCOLS[spec.protocol].encoders:
        return PROTOCOLS[spec.protocol].why_not_raw, False
    reasons: dict[str, list[int]] = {}
    for fold in sorted({*column.folds} - {score.fold for score in scores}):
        key = TaskKey(column.dataset, spec.modality, spec.protocol, encoder, fold)
        reasons.setdefault(run.failures.get(key, NOT_EVALUATED), []).append(fold)
    failed = reasons.keys() != {NOT_EVALUATED}
    if len(reasons) == 1 and not scores:
        return next(iter(reasons)), failed
    each = [f"{_name_folds(folds)}: {why}" for why, folds in reasons.items()]
    return "; ".join(each), failed


def untrained(records: Iterable[Record]) -> str:
    """Return the classes without training clips in scores, and in which of their folds if not in all."""
    scores = [score for record in records for score in record.scores]
    folds: dict[str, set[int]] = {}
    for score in scores:
        for name in score.untrained:
            folds.setdefault(name, set()).add(score.fold)
    every = {score.fold for score in scores}
    named = [
        name if found == every else f"{name} ({_name_folds(sorted(found))})"
        for name, found in sorted(folds.items())
    ]
    more = [f"and {len(named) - MAX_NAMES} more"] if len(named) > MAX_NAMES else []
    return ", ".join([*named[:MAX_NAMES], *more])


def _name_folds(folds: Sequence[int]) -> str:
    return f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"


def group_runs(runs: Sequence[EvaluatedRun]) -> tuple[Group, ...]:
    """Group the runs that differ only in the seed, in the order of their first runs."""
    groups: dict[str, list[EvaluatedRun]] = {}
    titles: dict[str, str] = {}
    name_data = len({run.pretrained_on for run in runs}) > 1
    for run in runs:
        settings = to_dict(run.config)
        del settings["run"]  # only the seed in it changes results
        key = json.dumps([settings, run.pretrained_on])
        groups.setdefault(key, []).append(run)
        changes = [f"{change.name} {change.run}" for change in run.changes or ()]
        data = [f"on {' '.join(run.pretrained_on)}"] if name_data else []
        titles[key] = ", ".join([run.config.preset, *changes, *data])
    return tuple(Group(titles[key], tuple(group)) for key, group in groups.items())
