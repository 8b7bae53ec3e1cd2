"""tabulate: a run and its scores become tables, figures and one page that opens anywhere."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from xkd.evaluate.scores import Score
from xkd.report.collect import Findings, changed_settings, collect, provenance
from xkd.report.curves import POINTS, thin
from xkd.report.figures import draw
from xkd.report.page import page
from xkd.report.tables import ENCODERS, MEASURED, Cell, Hole, Table, number, paper_row
from xkd.watch.collapse import DIRECTIONS
from xkd.watch.metrics import SCORE_LABELS
from xkd.watch.push import push_scores
from xkd.watch.telemetry import Row


def tabulate(run: Path, scores: Path, out: Path, pushgateway: str = "") -> Path:
    """Write the report of a finished run.

    Writes to `out`: report.html (self-contained), tables.md, scores.csv, scores.json (numbers for
    ``dvc metrics``), curves.csv (for ``dvc plots``) and figures/. A partial set of scores gives tables
    with holes that say why; a collapsed run that was not evaluated gives a report without tables.

    Args:
        run: run directory with its verdict.
        scores: folder of score files; may be missing if the run collapsed.
        out: folder to write.
        pushgateway: URL of a Prometheus Pushgateway that is to have the scores for a minute; empty: none.

    Returns:
        Path of report.html.

    Raises:
        UserError: the run is not finished, or a score is damaged or belongs to another run.
    """
    findings = collect(run, scores)
    drawings = draw(findings, out / "figures")
    (out / "tables.md").write_text(markdown(findings), encoding="utf-8")
    (out / "scores.json").write_text(json.dumps(metrics(findings), indent=2) + "\n")
    _write_scores(findings, out / "scores.csv")
    _write_curves(findings.history, out / "curves.csv")
    report = out / "report.html"
    report.write_text(page(findings, drawings), encoding="utf-8")
    if pushgateway:
        pushed = [({name: str(getattr(s, name)) for name in SCORE_LABELS}, s.score) for s in findings.scores]
        push_scores(run.name, pushed, pushgateway)
    return report


def markdown(findings: Findings) -> str:
    """The tables as Markdown, with the verdict above and what was evaluated below."""
    verdict = findings.verdict
    lines = [
        f"# XKD run {findings.run.name}",
        "",
        f"**{verdict.verdict}**: {verdict.reason} (step {verdict.step}).",
        "",
    ]
    if findings.skipped_evaluation:
        return "\n".join(
            [*lines, "The run collapsed, so its evaluation was skipped and there are no tables.", ""]
        )
    for table in findings.tables:
        lines += [f"## {table.dataset}: {MEASURED}, %", "", *_markdown_table(table), ""]
        if table.holes:
            lines += ["Missing:", "", *(f"- {where}: {reason}" for where, reason in table.holes.items()), ""]
    lines += [
        "In parentheses: gain over the random initialization, in points.",
        "",
        "## What was evaluated",
        "",
        *(f"- {name}: {value}" for name, value in provenance(findings)),
        f"- Settings that differ from the preset: {changed_settings(findings)}",
        "",
    ]
    return "\n".join(lines)


def metrics(findings: Findings) -> dict[str, Any]:
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


def _markdown_table(table: Table) -> list[str]:
    lines = [
        "| | " + " | ".join(column.title for column in table.columns) + " |",
        "|---" + "|---:" * len(table.columns) + "|",
    ]
    for encoder, title in ENCODERS.items():
        cells = (_markdown_cell(table.cell(encoder, column)) for column in table.columns)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    if table.paper:
        cells = (str(table.paper.get(column, "")) for column in table.columns)
        lines.append(f"| {paper_row(table)} | " + " | ".join(cells) + " |")
    if table.chances:
        guesses = (f"{100 * table.chances[c]:.1f}" if c in table.chances else "" for c in table.columns)
        lines.append("| Chance | " + " | ".join(guesses) + " |")
    return lines


def _markdown_cell(cell: Cell | Hole) -> str:
    if isinstance(cell, Hole):
        return "missing"
    gain = f" ({100 * cell.gain:+.1f})" if cell.gain is not None else ""
    return f"{number(cell)}{gain}"


def _write_scores(findings: Findings, path: Path) -> None:
    names = [
        field.name
        for field in fields(Score)
        if field.name not in ("classes", "per_class", "sweep", "windows")
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


def _finite(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
