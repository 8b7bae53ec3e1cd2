"""The content of a report, computed from a run, its scores and the runs it is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from xkd.config import MODALITIES
from xkd.report.aggregate import Group, aggregate, group_runs
from xkd.report.load import EvaluatedRun, Samples, check_comparable, load_samples, read_run
from xkd.report.tables import Comparison, DatasetTable, Line
from xkd.rundir import ROLES, Row


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows."""

    run: EvaluatedRun
    history: list[Row]
    samples: dict[str, Samples]
    """Sample clips with their reconstructions and attention, by modality."""
    tables: list[DatasetTable]
    """Empty if evaluation was skipped."""
    comparison: Comparison
    """The run, and those it is compared with."""


def collect(run: Path, scores: Path, compare: Sequence[Path] = ()) -> ReportData:
    """Read a finished run with its scores and compute its tables.

    Args:
        run: run directory.
        scores: directory of its scores; may be incomplete.
        compare: other run directories, each with its scores in ``scores/``.

    Raises:
        UserError: a run has not ended; the directory of scores is missing though the run is healthy; a
            score belongs to another run; scores are of several revisions of a dataset; a run is given twice.
    """
    main = read_run(run, scores)
    runs = [main, *(read_run(other, other / "scores") for other in compare)]
    check_comparable(runs)
    groups = group_runs(runs)
    evaluated = {score.dataset for score in main.scores} | {key.dataset for key in main.failures}
    datasets = sorted(evaluated) or [str(main.info.get("dataset", "unknown"))]
    if main.skipped_evaluation:
        datasets = []
    own = aggregate([Group(main.dir.name, (main,))], datasets)
    compared = aggregate(groups, sorted({score.dataset for run in runs for score in run.scores}))
    return ReportData(
        main,
        main.dir.metrics(),
        load_samples(main.dir.samples_file),
        [DatasetTable(dataset, own) for dataset in datasets],
        Comparison(groups, compared),
    )


def provenance(data: ReportData) -> list[tuple[str, str]]:
    """Return the origin of the run and of its scores, as names and values for display."""
    run, scores = data.run, data.run.scores
    known = {name: str(value) for name, value in run.info.items()}.get
    origin = run.info.get("data_origin")
    rows: dict[str, str | None] = {
        "Preset": run.config.preset,
        "Pretrained on": "{}, revision {}".format(*run.pretrained_on),
        "Fetched from": "{repo} at {rev}".format(**origin) if origin else None,
        "Steps": f"{run.verdict.step} of {known('steps')}",
        "Finished": _last_logged(data.history),
        "Training time": _duration(run.info.get("seconds")),
        "Device": f"{known('device')}, torch {known('torch')}",
        "Processes": known("processes"),
        "Seed": str(run.config.run.seed),
        "Commit, pretraining": known("commit"),
    }
    if scores:
        rows |= {
            "Commit, evaluation": _distinct(score.commit for score in scores),
            "Evaluated": f"{max(score.date for score in scores)[:16].replace('T', ' ')} UTC",
            "Evaluated on": _distinct(f"{s.dataset}, revision {s.data_revision[:12]}" for s in scores),
            "Clips, train and test": _distinct(f"{s.train_clips} and {s.test_clips}" for s in scores),
            "Windows per clip, train and test": _distinct(
                f"{s.windows['train']} and {s.windows['test']}" for s in scores
            ),
        }
    for modality in MODALITIES:
        hashes = {s.encoder: s.encoder_hash for s in scores if s.modality == modality and s.encoder != "raw"}
        rows[f"Weights, {modality}"] = ", ".join(f"{encoder} {hashed}" for encoder, hashed in hashes.items())
    return [(name, value) for name, value in rows.items() if value]


def describe_changes(run: EvaluatedRun) -> str:
    """Return the settings that differ from the preset, in one line."""
    if run.changes is None:
        return f"unknown, since this version has no preset {run.config.preset}"
    return ", ".join(f"{c.name} {c.run} (preset {c.preset})" for c in run.changes) or "none"


RUN_FIELDS = ("Run", "Row", "Seed", "Verdict", "Pretrained on", "Commit", "Weights", "Evaluated")


def run_lines(comparison: Comparison) -> list[Line]:
    """Return the `RUN_FIELDS` of each compared run."""
    lines = []
    for group in comparison.groups:
        for run in group.runs:
            published = [s for s in run.scores if s.encoder in ROLES and s.modality in MODALITIES]
            weights = (f"{s.encoder} {s.modality} {s.encoder_hash}" for s in published)
            cells = [
                group.title,
                str(run.config.run.seed),
                run.verdict.verdict,
                " ".join(run.pretrained_on),
                str(run.info.get("commit"))[:7],
                ", ".join(dict.fromkeys(weights)),
                max((score.date[:10] for score in run.scores), default="no"),
            ]
            lines.append(Line(str(run.dir.path), cells))
    return lines


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _last_logged(history: Sequence[Row]) -> str:
    """Return the time of the last row, in UTC."""
    if not history:
        return "unknown"
    return datetime.fromtimestamp(history[-1]["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{seconds / 60:.1f} min"
