"""tabulate: a run and its scores become tables, figures and one page that opens anywhere."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from xkd.evaluate.score import Score
from xkd.model.terms import DIRECTIONS
from xkd.monitor.metrics import SCORE_LABELS
from xkd.monitor.pushgateway import push_scores
from xkd.report.collect import ReportData, collect
from xkd.report.comparison import Comparison
from xkd.report.figures import draw
from xkd.report.page import page
from xkd.report.plots.training import POINTS, thin
from xkd.report.tables import Cell
from xkd.report.text import latex, markdown
from xkd.rundir import Row


def tabulate(run: Path, scores: Path, out: Path, pushgateway: str = "", beside: Sequence[Path] = ()) -> Path:
    """Write the report of a finished run, alone or beside others.

    Writes to `out`: report.html (self-contained), the tables as tables.md, tables.tex and tables.csv,
    scores.csv (every score), scores.json (numbers for ``dvc metrics``), curves.csv (for ``dvc plots``) and
    figures/. A partial set of scores gives tables with holes that say why; a collapsed run that was not
    evaluated gives a report without tables.

    Args:
        run: run directory with its verdict.
        scores: folder of score files; may be missing if the run collapsed.
        out: folder to write.
        pushgateway: URL of a Prometheus Pushgateway that is to have the scores for a minute; empty: none.
        beside: other run directories, each with its scores in ``scores/``; those that differ in the seed
            alone become one row of a table.

    Returns:
        Path of report.html.

    Raises:
        UserError: a run is not finished, a score is damaged or belongs to another run, or scores that would
            stand beside each other are of several revisions of a dataset.
    """
    findings = collect(run, scores, beside)
    drawings = draw(findings, out / "figures")
    (out / "tables.md").write_text(markdown(findings), encoding="utf-8")
    (out / "tables.tex").write_text(latex(findings), encoding="utf-8")
    _write_tables(findings.comparison, out / "tables.csv")
    (out / "scores.json").write_text(json.dumps(metrics(findings), indent=2) + "\n")
    _write_scores(findings, out / "scores.csv")
    _write_curves(findings.history, out / "curves.csv")
    report = out / "report.html"
    report.write_text(page(findings, drawings), encoding="utf-8")
    if pushgateway:
        pushed = [({name: str(getattr(s, name)) for name in SCORE_LABELS}, s.score) for s in findings.scores]
        push_scores(run.name, pushed, pushgateway)
    return report


def metrics(findings: ReportData) -> dict[str, Any]:
    """The numbers that ``dvc metrics`` shows: scores by row and column, gains, how the run ended."""
    result: dict[str, Any] = {"verdict": findings.verdict.verdict, "step": findings.verdict.step}
    if findings.history:
        names = ("loss", *(f"{term}_{d}" for d in DIRECTIONS for term in ("kd", "kld")))
        last = findings.history[-1]
        result["pretrain"] = {name: last[name] for name in names if math.isfinite(last.get(name, math.nan))}
    for table in findings.tables:
        rows: dict[str, dict[str, float]] = {}
        for (encoder, column), cell in table.cells.items():
            if isinstance(cell, Cell):
                rows.setdefault(encoder, {})[column.name] = round(cell.mean, 6)
                if encoder == "teacher" and cell.gain is not None:
                    rows.setdefault("teacher_gain", {})[column.name] = round(cell.gain, 6)
        if rows:
            chances = {column.name: round(chance, 6) for column, chance in table.chances.items()}
            result[table.dataset] = {**rows, "chance": chances}
    return result


def _write_tables(comparison: Comparison, path: Path) -> None:
    """Every number of the tables with the paper's, in percent: a line a row, encoder, column and split."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                *("row", "encoder", "dataset", "modality", "protocol", "metric", "split"),
                *("mean", "std", "n", "over", "paper", "difference", "source"),
            ]
        )
        for (group, encoder, place), mean in comparison.cells.items():
            setup, paper = place.column.setup, comparison.paper(group, encoder, place)
            writer.writerow(
                [
                    *(group.title, encoder, place.dataset, setup.modality, setup.protocol),
                    *(place.column.metric, place.split),
                    *(_rounded(mean.mean), _rounded(mean.spread), mean.n, mean.over),
                    *((paper.percent, _rounded(paper.difference), paper.source) if paper else ("", "", "")),
                ]
            )


def _write_scores(findings: ReportData, path: Path) -> None:
    names = [
        field.name
        for field in fields(Score)
        if field.name not in ("classes", "per_class", "confusion", "sweep", "finetune", "curve", "windows")
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "train_windows", "test_windows"])
        for score in findings.scores:
            windows = (score.windows["train"], score.windows["test"])
            writer.writerow([*(getattr(score, name) for name in names), *windows])


def _write_curves(history: Sequence[Row], path: Path) -> None:
    """The history, thinned; a number that is not finite leaves an empty cell."""
    rows = thin(history, POINTS)
    columns = list(dict.fromkeys(["step", *(name for row in rows for name in row)]))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_finite(row.get(name)) for name in columns])


def _rounded(percent: float | None) -> float | str:
    return "" if percent is None else round(percent, 2)


def _finite(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
