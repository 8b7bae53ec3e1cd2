"""The report as Markdown, LaTeX and one self-contained HTML page (templates/)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from statistics import fmean

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from xkd.config import MODALITIES
from xkd.report.aggregate import Record
from xkd.report.collect import ReportData
from xkd.report.figures import Plot
from xkd.report.load import EvaluatedRun
from xkd.report.plots.scores import MAX_CLASSES, MAX_NARROW_CLASSES, confusions
from xkd.report.signals import SIGNAL_HEAD, drift, signal_lines
from xkd.report.tables import EMPTY, Comparison, DatasetTable, Line, format_std
from xkd.rundir import ROLES, Row

LEGENDS = {
    "gains": "In parentheses: gain over the random initialization, in points.",
    "compared": "In percent: mean and standard deviation over seeds, or over folds for a single run.",
}
"""Sentences about the numbers of tables."""
_HEADLINES = {
    "healthy": "Healthy",
    "undecided": "Undecided",
    "one_hot": "Collapsed: one-hot",
    "constant": "Collapsed: constant",
    "non_finite": "Failed: non-finite values",
}
"""Titles of a report by verdict."""
_BUT = ", but the teachers tell little"
"""What a headline adds where `drift` has a remark."""
_MEANINGS = {
    "healthy": "No sign of a collapse: the teachers give different clips different outputs, and the students "
    "do not just copy them.",
    "undecided": "Neither healthy nor collapsed: there is too little to judge by.",
    "one_hot": "The teachers put nearly all probability on one output: the students learn nothing from them.",
    "constant": "The teachers output the same for every clip: the students learn nothing from them.",
    "non_finite": "A value became NaN or infinite.",
}
"""What a verdict says, in plain words."""
_RUN_FIELDS = ("Run", "Row", "Seed", "Verdict", "Pretrained on", "Commit", "Weights", "Evaluated")
_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        EMPTY: "--",
    }
)


def environment(package: str) -> Environment:
    """Return the environment of a package's templates, which can include those of reports."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("xkd.report")]),
        extensions=["jinja2.ext.do"],
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, data: ReportData, figures: Mapping[str, Plot]) -> str:
    """Return a template filled in: the page embeds the figures and needs neither scripts nor the network."""
    jinja = environment("xkd.report")
    if template.endswith(".tex.j2"):  # Jinja's own braces collide with LaTeX's.
        jinja = jinja.overlay("<%", "%>", "<<", ">>")
    jinja.filters |= {
        "chain": chain,
        "data_uri": _data_uri,
        "latex": lambda text: text.translate(_LATEX),
        "mistakes": _mistakes,
        "per_class": _per_class,
        "percent": lambda value: "" if value is None else f"{100 * value:.1f}",
        "std": format_std,
    }
    verdict = data.run.verdict.verdict
    remark = "" if data.run.verdict.failed else drift(data.history, data.run.thresholds)
    return jinja.get_template(template).render(
        data=data,
        run=data.run,
        comparison=data.comparison,
        provenance=provenance(data.run, data.history),
        changes=describe_changes(data.run),
        headline=_HEADLINES[verdict] + (_BUT if remark and verdict == "healthy" else ""),
        meaning=_MEANINGS[verdict] if data.run.thresholds.out_dim else "",
        remark=remark,
        signal_head=SIGNAL_HEAD,
        signal_lines=signal_lines(data.history, data.run.thresholds),
        contents=[],
        run_fields=_RUN_FIELDS,
        run_lines=_run_lines(data.comparison),
        figures=figures,
        max_classes=MAX_CLASSES,
        max_narrow_classes=MAX_NARROW_CLASSES,
        **LEGENDS,
    )


def _mistakes(record: Record) -> list[tuple[tuple[str, str], int]]:
    """Return the pairs of true and predicted class that are confused, the most frequent first."""
    return [(pair, count) for pair, count in confusions(record.scores).most_common() if pair[0] != pair[1]]


def _per_class(table: DatasetTable) -> tuple[list[str], list[Line]]:
    """Return head and rows of the scores per class in percent, of the best and the random encoder."""
    columns = {
        f"{column.title}, {record.encoder}": _class_means(record)
        for column in table.tasks
        for record in (table.best(column), table["random", column])
        if record and record.mean is not None
    }
    columns = {title: means for title, means in columns.items() if means}
    names = sorted({name for means in columns.values() for name in means})
    lines = [Line(name, [means.get(name, "") for means in columns.values()]) for name in names]
    return ["Class", *columns], lines


def _class_means(record: Record) -> dict[str, str]:
    """Return each class's score in percent, averaged over the folds that have it."""
    folds: dict[str, list[float]] = {}
    for score in record.scores:
        for name, value in score.per_class.items():
            if value is not None:
                folds.setdefault(name, []).append(value)
    return {name: f"{100 * fmean(values):.0f}" for name, values in folds.items()}


def _data_uri(path: Path) -> str:
    """Return a figure as a data URI."""
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def provenance(run: EvaluatedRun, history: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the origin of the run and of its scores, as names and values for display."""
    scores = run.scores
    known = {name: str(value) for name, value in run.info.items()}.get
    origin, newest = run.info.get("data_origin"), "unknown"
    if history:
        newest = datetime.fromtimestamp(history[-1]["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows: dict[str, str | None] = {"Preset": run.config.preset}
    pretraining = {
        "Pretrained on": "{}, revision {}".format(*run.pretrained_on),
        "Fetched from": "{repo} at {rev}".format(**origin) if origin else None,
        "Steps": f"{run.verdict.step} of {known('steps')}",
        "Finished" if run.finished else "Newest row": newest,
        "Training time": _duration(run.info.get("seconds")),
        "Device": f"{known('device')}, torch {known('torch')}",
        "Processes": known("processes"),
        "Seed": str(run.config.run.seed),
        "Commit, pretraining": known("commit"),
    }
    rows |= {"Pretraining": "unknown, imported"} if run.state == "imported" else pretraining
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


def _run_lines(comparison: Comparison) -> list[Line]:
    """Return the `_RUN_FIELDS` of each compared run."""
    lines = []
    for group in comparison.groups:
        for run in group.runs:
            published = [s for s in run.scores if s.encoder in ROLES and s.modality in MODALITIES]
            weights = (f"{s.encoder} {s.modality} {s.encoder_hash}" for s in published)
            cells = [
                group.title,
                str(run.config.run.seed),
                _describe_state(run),
                " ".join(run.pretrained_on),
                str(run.info.get("commit", "unknown"))[:7],
                ", ".join(dict.fromkeys(weights)),
                max((score.date[:10] for score in run.scores), default="no"),
            ]
            lines.append(Line(str(run.dir.path), cells))
    return lines


def _describe_state(run: EvaluatedRun) -> str:
    """Return the verdict, or why there is none yet."""
    if run.finished:
        return run.verdict.verdict
    return run.state if run.state == "imported" else f"{run.state}, so far {run.verdict.verdict}"


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{seconds / 60:.1f} min"
