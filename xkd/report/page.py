"""The report as one HTML page: no scripts, nothing from the network, readable on a screen and on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import fmean

from xkd.evaluate.score import Score
from xkd.report.collect import ReportData, provenance
from xkd.report.comparison import RUN_FACTS, Comparison, run_facts
from xkd.report.figures import Drawing
from xkd.report.plots.scores import MOST, NARROW, confusions
from xkd.report.style import CSS
from xkd.report.tables import (
    ENCODERS,
    MEASURED,
    Cell,
    Line,
    MissingCell,
    Table,
    cell_text,
    deviation,
    references,
)
from xkd.report.text import COMPARED

MISTAKES = 5
"""Commonest confusions below a matrix."""
MANY_MISTAKES = 30
"""Commonest confusions where no matrix is shown."""
_MIME = {".svg": "image/svg+xml", ".png": "image/png"}


def page(findings: ReportData, drawings: Mapping[str, Drawing]) -> str:
    """The whole page.

    Args:
        findings: what the report says.
        drawings: the figures by name, as `xkd.report.figures.draw` returns them.
    """
    sections = [_banner(findings)]
    if findings.skipped_evaluation:
        sections.append(_skipped(findings))
    else:
        sections += [_scores(table, drawings[f"scores_{table.dataset}"]) for table in findings.tables]
    if findings.comparison.several:
        sections.append(_comparison(findings.comparison, drawings))
    sections.append(
        _facts("What was evaluated" if findings.scores else "What was trained", provenance(findings))
    )
    sections.append(_changes(findings))
    sections += [_section(drawings[name]) for name in ("losses", "distillation", "schedules")]
    pictures = ("reconstruction_", "mask_ratios_", "attention_")
    sections += [_section(drawing) for name, drawing in drawings.items() if name.startswith(pictures)]
    if findings.scores:
        sections += [
            _section(drawing) for name, drawing in drawings.items() if name.startswith("finetuning_")
        ]
        sections += [_confusions(table, drawings) for table in findings.tables]
        sections += [_classes(table) for table in findings.tables]
        sections.append(_details(findings))
    title = escape(f"XKD run {findings.run.name}")
    return _PAGE.format(title=title, style=CSS, body="\n".join(sections))


def _banner(findings: ReportData) -> str:
    verdict = findings.verdict
    healthy = verdict.healthy
    word = "Healthy" if healthy else f"Collapsed: {verdict.verdict.replace('_', '-')}"
    if verdict.verdict == "non_finite":
        word = "Broken: values not finite"
    kind = "healthy" if healthy else "collapsed"
    reason = escape(verdict.reason[:1].upper() + verdict.reason[1:].rstrip("."))
    return (
        f'<div class="banner {kind}" role="status"><strong>{escape(word)}</strong>'
        f"<p>{reason}. Judged at step {verdict.step}.</p></div>"
    )


def _skipped(findings: ReportData) -> str:
    return (
        "<section><h2>Evaluation</h2><p>There are no tables: the run was judged "
        f"<em>{escape(findings.verdict.verdict.replace('_', '-'))}</em>, so its encoders hold nothing worth "
        "measuring and the evaluation fan-out was skipped. The curves below show how it went wrong; the "
        "settings that differ from the preset are the first suspects.</p></section>"
    )


def _scores(table: Table, drawing: Drawing) -> str:
    rows = []
    for encoder, title in ENCODERS.items():
        cells = "".join(_cell(table.cell(encoder, column)) for column in table.columns)
        rows.append(f'<tr class="{encoder}"><th>{escape(title)}</th>{cells}</tr>')
    rows += map(_line, references(table))
    shown = _table("scores", ("", *(column.title for column in table.columns)), rows)
    holes = "".join(
        f"<li><b>{escape(where)}</b>: {escape(reason)}</li>" for where, reason in table.missing.items()
    )
    missing = f'<p class="note">Missing numbers:</p><ul class="note">{holes}</ul>' if holes else ""
    if table.not_evaluated:
        missing += f'<p class="note">Not evaluated: {escape(table.not_evaluated)}.</p>'
    return (
        f'<section><div class="keep"><h2>Scores on {escape(table.dataset)}</h2>'
        f"<p>In percent: {MEASURED}. Small: the standard deviation over folds, and the gain over the random "
        "initialization of the same encoder, in points.</p>"
        f"{shown if table.columns else ''}{missing}</div>{_figure(drawing)}</section>"
    )


def _cell(cell: Cell | MissingCell) -> str:
    if isinstance(cell, MissingCell):
        return f'<td class="hole" title="{escape(cell.reason)}">{cell_text(cell)}</td>'
    small = f"<small>{deviation(cell)}</small>" if len(cell.scores) > 1 else ""
    if cell.gain is not None:
        sign = "up" if cell.gain > 0 else "down" if cell.gain < 0 else ""
        small += f'<small class="{sign}">{100 * cell.gain:+.1f}</small>'
    return f"<td>{100 * cell.mean:.1f}{small}</td>"


def _comparison(comparison: Comparison, drawings: Mapping[str, Drawing]) -> str:
    parts = []
    for index, block in enumerate(comparison.blocks, start=1):
        head = ("", *(place.title for place in block.places))
        table = _table("grid compared", head, map(_line, comparison.lines(block.places)))
        figure = _figure(drawings[f"comparison_{index}"])
        parts.append(f'<div class="keep"><h3>{escape(block.title)}</h3>{table}{figure}</div>')
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in (COMPARED, *comparison.collapsed))
    runs = _grid("The runs", RUN_FACTS, run_facts(comparison))
    return f"<section><h2>Runs side by side</h2>{notes}{''.join(parts)}</section>{runs}"


def _line(line: Line) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in line.cells)
    kind = ' class="reference"' if line.reference else ""
    return f"<tr{kind}><th>{escape(line.title)}</th>{cells}</tr>"


def _facts(title: str, rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f"<section><h2>{escape(title)}</h2><dl>{cells}</dl></section>"


def _changes(findings: ReportData) -> str:
    preset = escape(findings.config.preset)
    if findings.changes is None:
        return (
            f'<p class="note">This version has no preset {preset}, so the run cannot be compared with it.</p>'
        )
    if not findings.changes:
        return f'<p class="note">Every setting is the one of preset {preset}.</p>'
    rows = [(change.name, str(change.preset), str(change.run)) for change in findings.changes]
    return _grid("Settings that differ from the preset", ("Setting", f"Preset {preset}", "This run"), rows)


def _confusions(table: Table, drawings: Mapping[str, Drawing]) -> str:
    """What is taken for what: matrices, and where a matrix cannot name the classes the commonest mistakes."""
    parts = []
    for column in table.tasks:
        found = table.published(column)
        if found is None or not found[1].scores[0].confusion:
            continue
        encoder, cell = found
        drawing = drawings.get(f"confusion_{table.dataset}_{column.name}")
        wide = len(cell.scores[0].classes) > NARROW
        parts.append(
            f'<div class="keep{" wide" if wide else ""}"><h3>{escape(column.title)}, {encoder}</h3>'
            f"{_figure(drawing) if drawing else ''}{_mistakes(cell)}</div>"
        )
    if not parts:
        return ""
    name = escape(table.dataset)
    return f'<section><h2>Confusions on {name}</h2><div class="confusions">{"".join(parts)}</div></section>'


def _mistakes(cell: Cell) -> str:
    """The commonest confusions of a cell's folds."""
    counts = confusions(cell.scores)
    wrong = [(pair, n) for pair, n in counts.most_common() if pair[0] != pair[1]]
    if not wrong:
        return '<p class="note">No clip was taken for another class.</p>'
    shown = MISTAKES if len(cell.scores[0].classes) <= MOST else MANY_MISTAKES
    items = "".join(
        f"<li>{escape(label)} taken for {escape(taken)}: {n}</li>" for (label, taken), n in wrong[:shown]
    )
    return f'<ol class="note mistakes">{items}</ol>'


def _classes(table: Table) -> str:
    """Per class scores of the published encoder, beside the random initialization's; means over folds."""
    columns: list[tuple[str, dict[str, float | None]]] = []
    for column in table.tasks:
        found = table.published(column)
        if found:
            columns.append((f"{column.title}, {found[0]}", _per_class(found[1])))
        random = table.cell("random", column)
        if isinstance(random, Cell):
            columns.append((f"{column.title}, random", _per_class(random)))
    if not columns:
        return ""
    names = sorted({name for _, values in columns for name in values})
    rows = [(name, *(_percent(values.get(name)) for _, values in columns)) for name in names]
    return _grid(
        f"Per class on {escape(table.dataset)}, %", ("Class", *(title for title, _ in columns)), rows
    )


def _per_class(cell: Cell) -> dict[str, float | None]:
    folds: dict[str, list[float]] = {}
    for score in cell.scores:
        for name, value in score.per_class.items():
            if value is not None:
                folds.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in folds.items()}


def _details(findings: ReportData) -> str:
    rows = [
        (
            score.name,
            f"{100 * score.score:.1f}",
            "" if score.top5 is None else f"{100 * score.top5:.1f}",
            "" if score.C is None else f"{score.C:g}",
            str(len(score.curve) or ""),
            _validation(score),
            f"{score.seconds:.0f} s",
        )
        for score in findings.scores
    ]
    return _grid("Every task", ("Task", "Test", "Top-5", "C", "Epochs", "Validation", "Time"), rows)


def _validation(score: Score) -> str:
    """What C, or the epoch of a fine-tuning, was chosen by."""
    if score.C is not None:
        return f"{100 * score.sweep[f'{score.C:g}']:.1f}"
    validations = [row["validation"] for row in score.curve if "validation" in row]
    return f"{100 * max(validations):.1f}" if validations else ""


def _grid(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table; the first column names the row."""
    body = (_line(Line(row[0], list(row[1:]))) for row in rows)
    return f"<section><h2>{title}</h2>{_table('grid', head, body)}</section>"


def _table(kind: str, head: Sequence[str], rows: Iterable[str]) -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(rows)
    return f'<table class="{kind}"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>'


def _section(drawing: Drawing) -> str:
    return f'<section class="keep"><h2>{escape(drawing.title)}</h2>{_figure(drawing)}</section>'


def _figure(drawing: Drawing) -> str:
    if drawing.path is None:
        return f'<p class="missing">No figure: {escape(drawing.reason)}.</p>'
    data = base64.b64encode(drawing.path.read_bytes()).decode()
    source = f"data:{_MIME[drawing.path.suffix]};base64,{data}"
    return (
        f'<figure><img alt="{escape(drawing.title)}" src="{source}">'
        f"<figcaption>{escape(drawing.caption)}</figcaption></figure>"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
