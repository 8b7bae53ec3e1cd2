"""Everything a report says, gathered from a run directory and a folder of scores, before any formatting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from xkd.config import MODALITIES
from xkd.report.comparison import Comparison, compare
from xkd.report.load import Change, Evaluated, changes, check_revisions, read_run
from xkd.report.tables import Table, make_table
from xkd.rundir import Row, read_rows


@dataclass(frozen=True)
class ReportData(Evaluated):
    """All that a report is made of."""

    history: list[Row]
    tables: list[Table]
    changes: list[Change] | None
    """None where this version does not know the run's preset."""
    comparison: Comparison
    """The run, and others beside it."""


def collect(run: Path, scores: Path, beside: Sequence[Path] = ()) -> ReportData:
    """Read a finished run and the scores of its evaluations, as many as there are.

    Args:
        run: run directory.
        scores: folder of its scores.
        beside: other run directories, each with its scores in ``scores/``, to be compared with it.

    Raises:
        UserError: a run is not finished; the folder of scores is missing though the run is healthy; a
            score belongs to another run; scores are of several revisions of a dataset; a run is given twice.
    """
    mine = read_run(run, scores)
    runs = [mine, *(read_run(other, other / "scores") for other in beside)]
    check_revisions(runs)
    asked = {score.dataset for score in mine.scores}
    asked |= {path.name.partition("-")[0] for path in scores.glob("*.failed")}
    datasets = sorted(asked) or [str(mine.facts.get("dataset", "unknown"))]
    return ReportData(
        **vars(mine),
        history=read_rows(run / "metrics.jsonl"),
        tables=[make_table(dataset, mine.scores, scores, mine.config.preset) for dataset in datasets],
        changes=changes(mine.config),
        comparison=compare(runs),
    )


def provenance(findings: ReportData) -> list[tuple[str, str]]:
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


def changed_settings(findings: ReportData) -> str:
    """The settings that differ from the preset, in one line."""
    if findings.changes is None:
        return "unknown: this version has no such preset"
    return ", ".join(f"{c.name} {c.run} (preset {c.preset})" for c in findings.changes) or "none"


def trained_at(history: Sequence[Row]) -> str:
    """When the run logged its last row, in UTC."""
    if not history:
        return "unknown"
    return datetime.fromtimestamp(history[-1]["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{seconds / 60:.1f} min"
