"""The report as Markdown, LaTeX and one self-contained HTML page (templates/)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from xkd.evaluate.score import Score
from xkd.report.aggregate import ENCODERS, Record
from xkd.report.collect import RUN_FIELDS, ReportData, describe_changes, provenance, run_lines
from xkd.report.figures import FigureFile
from xkd.report.plots.scores import MAX_CLASSES, MAX_NARROW_CLASSES, confusions
from xkd.report.tables import EMPTY, Block, DatasetTable, Line, format_std

MEASURE = "Top-1 accuracy of a linear SVM on frozen features unless the column says otherwise"
COMPARED = "In percent: mean and standard deviation over seeds, or over folds for a single run."
MISTAKES, MISTAKES_WITHOUT_MATRIX = 5, 30
"""Most frequent confusions listed below a matrix, and where there is none."""
LEGEND = f"{MEASURE}, in percent. In parentheses: gain over the random initialization, in points."
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


class TextTable(NamedTuple):
    """A table for Markdown and LaTeX."""

    title: str
    head: list[str]
    """Titles of the columns after the first, which has the rows' titles."""
    lines: list[Line]
    legend: str
    missing: Mapping[str, str]
    """Why scores are missing, by task."""
    notes: list[str]


def render_markdown(data: ReportData) -> str:
    """Return the verdict, the tables and their provenance as Markdown."""
    return _render("tables.md.j2", data)


def render_latex(data: ReportData) -> str:
    """Return the tables as LaTeX floats; they need the package booktabs."""
    return _render("tables.tex.j2", data)


def render_html(data: ReportData, figures: Mapping[str, FigureFile]) -> str:
    """Return the page, with the figures embedded: no scripts and no network access.

    Args:
        data: the content.
        figures: by name, as `xkd.report.figures.draw_figures` returns them.
    """
    return _render("report.html.j2", data, figures=figures)


def _render(template: str, data: ReportData, **more: Any) -> str:
    environment = Environment(
        loader=PackageLoader("xkd.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    if template.endswith(".tex.j2"):  # Jinja's own braces collide with LaTeX's.
        environment = environment.overlay("<%", "%>", "<<", ">>")
    environment.filters |= {
        "chain": chain,
        "confusions": _confusions,
        "data_uri": _data_uri,
        "latex": lambda text: text.translate(_LATEX),
        "per_class": _per_class,
        "std": format_std,
    }
    changes = data.run.changes or ()
    return environment.get_template(template).render(
        data=data,
        run=data.run,
        comparison=data.comparison,
        tables=_text_tables(data),
        provenance=provenance(data),
        changes=describe_changes(data.run),
        change_lines=[Line(change.name, (str(change.preset), str(change.run))) for change in changes],
        run_fields=RUN_FIELDS,
        run_lines=run_lines(data.comparison),
        task_lines=[_task_line(score) for score in data.run.scores],
        encoders=ENCODERS,
        measure=MEASURE,
        compared=COMPARED,
        **more,
    )


def _text_tables(data: ReportData) -> list[TextTable]:
    tables = []
    for table in () if data.run.skipped_evaluation else data.tables:
        notes = [f"Not evaluated: {table.not_evaluated}."] if table.not_evaluated else []
        head = [column.title for column in table.columns]
        tables.append(
            TextTable(f"Scores on {table.dataset}", head, table.lines(), LEGEND, table.missing, notes)
        )
    comparison = data.comparison
    if comparison.several:
        for block in comparison.blocks or [Block("nothing was evaluated", ())]:
            title, lines = f"Comparison of runs: {block.title}", comparison.lines(block.columns)
            tables.append(TextTable(title, block.head, lines, COMPARED, {}, []))
        tables[-1].notes.extend(comparison.collapsed)
    return tables


def _confusions(table: DatasetTable) -> list[tuple[str, str, bool, list[tuple[tuple[str, str], int]]]]:
    """Return the title, the figure's name, whether it is wide, and the most frequent confusions per task."""
    found = []
    for column in table.tasks:
        best = table.best(column)
        if best and best.scores[0].confusion:
            classes = len(best.scores[0].classes)
            limit = MISTAKES if classes <= MAX_CLASSES else MISTAKES_WITHOUT_MATRIX
            wrong = [pair for pair in confusions(best.scores).most_common() if len({*pair[0]}) > 1]
            name = f"confusion_{table.dataset}_{column.name}"
            title = f"{column.title}, {best.encoder}"
            found.append((title, name, classes > MAX_NARROW_CLASSES, wrong[:limit]))
    return found


def _per_class(table: DatasetTable) -> tuple[list[str], list[Line]]:
    """Return head and rows of the scores per class in percent, of the best and the random encoder."""
    head, columns = ["Class"], []
    for column in table.tasks:
        for record in (table.best(column), table["random", column]):
            if record and record.mean is not None:
                head.append(f"{column.title}, {record.encoder}")
                columns.append(_class_means(record))
    names = sorted({name for means in columns for name in means})
    return head, [Line(name, [means.get(name, "") for means in columns]) for name in names]


def _class_means(record: Record) -> dict[str, str]:
    """Return each class's score in percent, averaged over the folds that have it."""
    folds: dict[str, list[float]] = {}
    for score in record.scores:
        for name, value in score.per_class.items():
            if value is not None:
                folds.setdefault(name, []).append(value)
    return {name: f"{100 * fmean(values):.0f}" for name, values in folds.items()}


def _task_line(score: Score) -> Line:
    """Return one task's scores and what its C, or the epoch of a fine-tuning, was chosen by."""
    validation = [row["validation"] for row in score.curve if "validation" in row]
    if score.C is not None:
        validation = [score.sweep[f"{score.C:g}"]]
    cells = (
        f"{100 * score.score:.1f}",
        "" if score.top5 is None else f"{100 * score.top5:.1f}",
        "" if score.C is None else f"{score.C:g}",
        str(len(score.curve) or ""),
        f"{100 * max(validation):.1f}" if validation else "",
        f"{score.seconds:.0f} s",
    )
    return Line(score.name, cells)


def _data_uri(path: Path) -> str:
    """Return a figure as a data URI."""
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
