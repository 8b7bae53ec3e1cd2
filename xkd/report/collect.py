"""Everything a report says, gathered from a run directory and a folder of scores, before any formatting."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from xkd.config import MODALITIES, PretrainConfig
from xkd.errors import UserError
from xkd.evaluate.features import published_hash
from xkd.evaluate.protocols import SETUPS, Setup
from xkd.evaluate.scores import METRICS, EvaluatedEncoder, EvaluatedModality, Score, read_scores, task_name
from xkd.evaluate.task import INPUTS, read_config
from xkd.presets import PRESETS, get_preset
from xkd.settings import difference, to_dict
from xkd.train.run import read_json
from xkd.watch.collapse import Verdict
from xkd.watch.telemetry import Row, read_rows

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


@dataclass(frozen=True)
class Table:
    """The scores on one dataset: rows `ENCODERS`, columns its protocols."""

    dataset: str
    columns: tuple[Column, ...]
    cells: dict[tuple[EvaluatedEncoder, Column], Cell | Hole]
    chances: dict[Column, float]
    """What guessing scores, where it is known."""

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


class Change(NamedTuple):
    """A setting in which a run differs from its preset."""

    name: str
    preset: Any
    run: Any


@dataclass(frozen=True)
class Findings:
    """All that a report is made of."""

    run: Path
    config: PretrainConfig
    facts: dict[str, Any]
    """run.json"""
    verdict: Verdict
    history: list[Row]
    scores: list[Score]
    tables: list[Table]
    changes: list[Change] | None
    """None where this version does not know the run's preset."""

    @property
    def skipped_evaluation(self) -> bool:
        """Whether there are no scores because the run collapsed."""
        return not self.scores and not self.verdict.healthy


def collect(run: Path, scores: Path) -> Findings:
    """Read a finished run and the scores of its evaluations, as many as there are.

    Raises:
        UserError: the run is not finished; the folder of scores is missing though the run is healthy; a
            score belongs to another run.
    """
    config = read_config(run)
    facts = read_json(run / "run.json")
    verdict = Verdict(**read_json(run / "verdict.json"))
    if not scores.is_dir() and verdict.healthy:
        raise UserError(f"no folder of scores at {scores}; xkd evaluate writes one")
    found = read_scores(scores)
    _check_belonging(run, scores, found)
    datasets = sorted({score.dataset for score in found}) or [str(facts.get("dataset", "unknown"))]
    return Findings(
        run=run,
        config=config,
        facts=facts,
        verdict=verdict,
        history=read_rows(run / "metrics.jsonl"),
        scores=found,
        tables=[_table(dataset, found, scores) for dataset in datasets],
        changes=changes(config),
    )


def changes(config: PretrainConfig) -> list[Change] | None:
    """The settings in which a configuration differs from its preset; None if there is no such preset.

    Settings under ``run``, which change no result, are left out; so is the seed, which a report names anyway.
    """
    if config.preset not in PRESETS:
        return None
    preset = get_preset(config.preset)
    return [
        Change(name, _setting(preset, name), _setting(config, name))
        for name in difference(preset, config)
        if not name.startswith("run.")
    ]


def provenance(findings: Findings) -> list[tuple[str, str]]:
    """What was evaluated, as names and values for people."""
    known = {name: str(value) for name, value in findings.facts.items()}.get
    origin = findings.facts.get("data_origin")
    rows: dict[str, str | None] = {
        "Preset": findings.config.preset,
        "Pretrained on": f"{known('dataset')}, revision {known('data_revision', '')[:12]}",
        "Fetched from": "{repo} at {rev}".format(**origin) if origin else None,
        "Steps": f"{findings.verdict.step} of {known('steps')}",
        "Finished": trained_at(findings.history),
        "Training time": _duration(findings.facts.get("seconds")),
        "Device": f"{known('device')}, torch {known('torch')}",
        "Processes": known("processes"),
        "Seed": str(findings.config.run.seed),
        "Commit, pretraining": known("commit"),
    }
    scores = findings.scores
    if scores:
        rows |= {
            "Commit, evaluation": _each(score.commit for score in scores),
            "Evaluated": f"{max(score.date for score in scores)[:16].replace('T', ' ')} UTC",
            "Evaluated on": _each(
                f"{score.dataset}, revision {score.data_revision[:12]}" for score in scores
            ),
            "Clips, train and test": _each(f"{score.train_clips} and {score.test_clips}" for score in scores),
            "Windows a clip": _each(f"{s.windows['train']} and {s.windows['test']}" for s in scores),
        }
    for modality in MODALITIES:
        hashes = {s.encoder: s.encoder_hash for s in scores if s.modality == modality and s.encoder != "raw"}
        rows[f"Weights, {modality}"] = ", ".join(f"{encoder} {hashed}" for encoder, hashed in hashes.items())
    return [(name, value) for name, value in rows.items() if value]


def _each(values: Iterable[str]) -> str:
    """The different values, once each."""
    return "; ".join(dict.fromkeys(values))


def changed_settings(findings: Findings) -> str:
    """The settings that differ from the preset, in one line."""
    if findings.changes is None:
        return "unknown: this version has no such preset"
    return ", ".join(f"{c.name} {c.run} (preset {c.preset})" for c in findings.changes) or "none"


def trained_at(history: Sequence[Row]) -> str:
    """When the run logged its last row, in UTC."""
    if not history:
        return "unknown"
    return datetime.fromtimestamp(history[-1]["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")


def _check_belonging(run: Path, folder: Path, scores: list[Score]) -> None:
    """A table must not mix runs, nor revisions of one dataset."""
    revisions: dict[str, str] = {}
    for score in scores:
        path = folder / f"{score.name}.json"
        if score.encoder in ("teacher", "student"):
            ours = "+".join(published_hash(run, score.encoder, m) for m in INPUTS[score.modality])
            if score.encoder_hash != ours:
                raise UserError(
                    f"{path} is a score of another run (its encoder is {score.encoder_hash}, "
                    f"the one in {run} {ours}); remove it"
                )
        first = revisions.setdefault(score.dataset, score.data_revision)
        if score.data_revision != first:
            raise UserError(
                f"{path} was measured on another revision of {score.dataset} than the others; remove it"
            )


def _table(dataset: str, scores: list[Score], folder: Path) -> Table:
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
    return Table(dataset, columns, cells, chances)


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


def _setting(config: PretrainConfig, name: str) -> Any:
    value: Any = to_dict(config)
    for key in name.split("."):
        value = value[key]
    return value


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{seconds / 60:.1f} min"
