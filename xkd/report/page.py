"""The report as one HTML page: no scripts, nothing from the network, readable on a screen and on paper."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from xkd.report.collect import Findings, provenance
from xkd.report.figures import Drawing
from xkd.report.style import CSS
from xkd.report.tables import ENCODERS, MEASURED, Cell, Hole, Table, number, paper_row

_MIME = {".svg": "image/svg+xml", ".png": "image/png"}


def page(findings: Findings, drawings: Mapping[str, Drawing]) -> str:
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
    sections.append(
        _facts("What was evaluated" if findings.scores else "What was trained", provenance(findings))
    )
    sections.append(_changes(findings))
    sections += [_section(drawings[name]) for name in ("losses", "distillation", "schedules")]
    sections += [
        _section(drawing) for name, drawing in drawings.items() if name.startswith("reconstruction_")
    ]
    if findings.scores:
        sections += [_classes(table) for table in findings.tables]
        sections.append(_details(findings))
    title = escape(f"XKD run {findings.run.name}")
    return _PAGE.format(title=title, style=CSS, body="\n".join(sections))


def _banner(findings: Findings) -> str:
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


def _skipped(findings: Findings) -> str:
    return (
        "<section><h2>Evaluation</h2><p>There are no tables: the run was judged "
        f"<em>{escape(findings.verdict.verdict.replace('_', '-'))}</em>, so its encoders hold nothing worth "
        "measuring and the evaluation fan-out was skipped. The curves below show how it went wrong; the "
        "settings that differ from the preset are the first suspects.</p></section>"
    )


def _scores(table: Table, drawing: Drawing) -> str:
    head = "".join(f"<th>{escape(column.title)}</th>" for column in table.columns)
    rows = []
    for encoder, title in ENCODERS.items():
        cells = "".join(_cell(table.cell(encoder, column)) for column in table.columns)
        rows.append(f'<tr class="{encoder}"><th>{escape(title)}</th>{cells}</tr>')
    if table.paper:
        cells = "".join(f"<td>{table.paper.get(column, '')}<small></small></td>" for column in table.columns)
        rows.append(f'<tr class="chance"><th>{escape(paper_row(table))}</th>{cells}</tr>')
    if table.chances:
        guesses = (f"{100 * table.chances[c]:.1f}" if c in table.chances else "" for c in table.columns)
        cells = "".join(f"<td>{guess}<small></small></td>" for guess in guesses)
        rows.append(f'<tr class="chance"><th>Chance</th>{cells}</tr>')
    holes = "".join(
        f"<li><b>{escape(where)}</b>: {escape(reason)}</li>" for where, reason in table.holes.items()
    )
    missing = f'<p class="note">Missing numbers:</p><ul class="note">{holes}</ul>' if holes else ""
    return (
        f"<section><h2>Scores on {escape(table.dataset)}</h2>"
        f"<p>In percent: {MEASURED}. Small: the gain over the random initialization of the same encoder, in "
        "points.</p>"
        f'<table class="scores"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f"{missing}{_figure(drawing)}</section>"
    )


def _cell(cell: Cell | Hole) -> str:
    if isinstance(cell, Hole):
        return f'<td class="hole" title="{escape(cell.reason)}">missing</td>'
    if cell.gain is None:
        return f"<td>{number(cell)}<small></small></td>"
    sign = "up" if cell.gain > 0 else "down" if cell.gain < 0 else ""
    return f'<td>{number(cell)}<small class="{sign}">{100 * cell.gain:+.1f}</small></td>'


def _facts(title: str, rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f"<section><h2>{escape(title)}</h2><dl>{cells}</dl></section>"


def _changes(findings: Findings) -> str:
    preset = escape(findings.config.preset)
    if findings.changes is None:
        return (
            f'<p class="note">This version has no preset {preset}, so the run cannot be compared with it.</p>'
        )
    if not findings.changes:
        return f'<p class="note">Every setting is the one of preset {preset}.</p>'
    rows = [(change.name, str(change.preset), str(change.run)) for change in findings.changes]
    return _grid("Settings that differ from the preset", ("Setting", f"Preset {preset}", "This run"), rows)


def _classes(table: Table) -> str:
    """Per class scores of the teacher, beside the random initialization's."""
    shown = [("teacher", "teacher"), ("random", "random")]
    columns: list[tuple[str, Mapping[str, float | None]]] = []
    for column in table.columns:
        for encoder, word in shown:
            cell = table.cells[encoder, column]  # type: ignore[index]
            if isinstance(cell, Cell):
                columns.append((f"{column.title}, {word}", cell.scores[0].per_class))
    if not columns:
        return ""
    names = sorted({name for _, values in columns for name in values})
    rows = [(name, *(_percent(values.get(name)) for _, values in columns)) for name in names]
    return _grid(
        f"Per class on {escape(table.dataset)}, %", ("Class", *(title for title, _ in columns)), rows
    )


def _details(findings: Findings) -> str:
    rows = [
        (
            score.name,
            f"{100 * score.score:.1f}",
            "" if score.C is None else f"{score.C:g}",
            "" if score.C is None else f"{100 * score.sweep[f'{score.C:g}']:.1f}",
            f"{score.seconds:.0f} s",
        )
        for score in findings.scores
    ]
    return _grid("Every task", ("Task", "Test", "C", "Validation", "Time"), rows)


def _grid(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table; the first column names the row."""
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return (
        f'<section><h2>{title}</h2><table class="grid"><thead><tr>{header}</tr></thead>'
        f"<tbody>{body}</tbody></table></section>"
    )


def _section(drawing: Drawing) -> str:
    return f"<section><h2>{escape(drawing.title)}</h2>{_figure(drawing)}</section>"


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
