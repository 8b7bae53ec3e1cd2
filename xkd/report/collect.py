"""Everything a report says, gathered from a run directory and a folder of scores, before any formatting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from xkd.config import MODALITIES, PretrainConfig
from xkd.errors import UserError
from xkd.evaluate.features import published_hash
from xkd.evaluate.scores import Score, read_scores
from xkd.evaluate.task import INPUTS, read_config
from xkd.presets import PRESETS, get_preset
from xkd.report.tables import Table, make_table
from xkd.settings import difference, to_dict
from xkd.train.run import read_json
from xkd.watch.collapse import Verdict
from xkd.watch.telemetry import Row, read_rows


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
        tables=[make_table(dataset, found, scores, config.preset) for dataset in datasets],
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
