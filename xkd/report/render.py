"""The report as Markdown, LaTeX and one self-contained HTML page (templates/)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from xkd.report.aggregate import ENCODERS, Record
from xkd.report.collect import RUN_FIELDS, ReportData, describe_changes, provenance, run_lines
from xkd.report.figures import Plot
from xkd.report.plots.scores import MAX_CLASSES, MAX_NARROW_CLASSES, confusions
from xkd.report.tables import EMPTY, DatasetTable, Line, format_std

_LEGENDS = {
    "measure": "Top-1 accuracy of a linear SVM on frozen features unless the column says otherwise, in %.",
    "gains": "In parentheses: gain over the random initialization, in points.",
    "compared": "In percent: mean and standard deviation over seeds, or over folds for a single run.",
}
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


def render_markdown(data: ReportData) -> str:
    """Return the verdict, the tables and their provenance as Markdown."""
    return _render("tables.md.j2", data)


def render_latex(data: ReportData) -> str:
    """Return the tables as LaTeX floats; they need the package booktabs."""
    return _render("tables.tex.j2", data)


def render_html(data: ReportData, figures: Mapping[str, Plot]) -> str:
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
        "data_uri": _data_uri,
        "latex": lambda text: text.translate(_LATEX),
        "mistakes": _mistakes,
        "per_class": _per_class,
        "percent": lambda value: "" if value is None else f"{100 * value:.1f}",
        "std": format_std,
    }
    return environment.get_template(template).render(
        data=data,
        run=data.run,
        comparison=data.comparison,
        provenance=provenance(data),
        changes=describe_changes(data.run),
        run_fields=RUN_FIELDS,
        run_lines=run_lines(data.comparison),
        encoders=ENCODERS,
        max_classes=MAX_CLASSES,
        max_narrow_classes=MAX_NARROW_CLASSES,
        **_LEGENDS,
        **more,
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
