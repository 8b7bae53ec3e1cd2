"""The tables as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from xkd.report.collect import ReportData, changed_settings, provenance
from xkd.report.comparison import RUN_FACTS, Block, Comparison, run_facts
from xkd.report.tables import MEASURED, NOTHING, Line, Table, lines

COMPARED = (
    "In percent: the mean and the standard deviation over seeds; of a single run the deviation is over folds."
)
"""What the numbers of a comparison are."""
SKIPPED = "The run collapsed, so its evaluation was skipped and there are no tables."
_GAINS = "In parentheses: gain over the random initialization, in points."
_LATEX = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        NOTHING: "--",
    }
)


class _Text(NamedTuple):
    """A table as text."""

    title: str
    head: Sequence[str]
    """Of all columns but the first, which names the rows."""
    lines: list[Line]
    legend: str
    """What its numbers are."""
    notes: list[str]
    """What it lacks."""


def markdown(findings: ReportData) -> str:
    """The tables as Markdown, with the verdict above and what was evaluated below."""
    verdict = findings.verdict
    parts = [
        f"# XKD run {findings.run.name}",
        f"**{verdict.verdict}**: {verdict.reason} (step {verdict.step}).",
    ]
    if findings.skipped_evaluation:
        parts.append(SKIPPED)
    for table in _tables(findings):
        parts.append(f"## {table.title}")
        if table.head:
            parts += [_markdown_table(table.head, table.lines), table.legend]
        parts += table.notes
    if not findings.skipped_evaluation:
        facts = [f"- {name}: {value}" for name, value in provenance(findings)]
        facts.append(f"- Settings that differ from the preset: {changed_settings(findings)}")
        parts += ["## What was evaluated", "\n".join(facts)]
    if findings.comparison.several:
        rows = [Line(row[0], list(row[1:])) for row in run_facts(findings.comparison)]
        parts += ["## The runs", _markdown_table(RUN_FACTS[1:], rows)]
    return "\n\n".join(parts) + "\n"


def latex(findings: ReportData) -> str:
    """The tables as LaTeX, each a float; they need the package booktabs."""
    facts = [f"% {name}: {value}" for name, value in provenance(findings)]
    parts = ["\n".join([f"% XKD run {findings.run.name}; needs \\usepackage{{booktabs}}", *facts])]
    for table in _tables(findings):
        if not table.head:
            continue
        notes = [f"% {line}" for note in table.notes for line in note.splitlines() if line]
        rows = [Line("", list(table.head)), *table.lines]
        head, *body = (" & ".join(map(_escaped, (line.title, *line.cells))) + r" \\" for line in rows)
        parts.append(
            "\n".join(
                [
                    *notes,
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{_escaped(f'{table.title}. {table.legend}')}}}",
                    rf"\begin{{tabular}}{{l{'r' * len(table.head)}}}",
                    r"\toprule",
                    head,
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _tables(findings: ReportData) -> list[_Text]:
    tables = [] if findings.skipped_evaluation else [_of_dataset(table) for table in findings.tables]
    return tables + (_of_comparison(findings.comparison) if findings.comparison.several else [])


def _of_dataset(table: Table) -> _Text:
    notes = []
    if table.missing:
        notes.append("Missing:\n\n" + "\n".join(f"- {where}: {why}" for where, why in table.missing.items()))
    if table.not_evaluated:
        notes.append(f"Not evaluated: {table.not_evaluated}.")
    titles = [column.title for column in table.columns]
    return _Text(f"{table.dataset}: {MEASURED}, %", titles, lines(table), _GAINS, notes)


def _of_comparison(comparison: Comparison) -> list[_Text]:
    tables = [
        _Text(
            f"Runs side by side: {block.title}",
            [place.title for place in block.places],
            comparison.lines(block.places),
            COMPARED,
            [],
        )
        for block in comparison.blocks or [Block("nothing was evaluated", ())]
    ]
    tables[-1].notes.extend(comparison.collapsed)
    return tables


def _markdown_table(head: Sequence[str], rows: Sequence[Line]) -> str:
    return "\n".join(
        [
            f"| | {' | '.join(head)} |",
            "|---" + "|---:" * len(head) + "|",
            *(f"| {line.title} | {' | '.join(line.cells)} |" for line in rows),
        ]
    )


def _escaped(text: str) -> str:
    return text.translate(_LATEX)
