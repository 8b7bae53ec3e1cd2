"""The results as Markdown, CSV, figures and one HTML page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from matplotlib.figure import Figure

from xkd.ablation.grid import MeasuredColumn
from xkd.ablation.plot import differences, early_signals, schedule
from xkd.ablation.result import RUNS, Cell, Result, ResultRow, collect
from xkd.ablation.tables import Column, Table
from xkd.ablation.watch import (
    FRACTIONS,
    SIGNALS,
    Judged,
    Prediction,
    comparable,
    judge_verdicts,
    observe,
    predictions,
    scored_columns,
)
from xkd.data.shards.manifest import PreparedDataset
from xkd.io import write_text
from xkd.report.figures import save
from xkd.report.inline import Panel, whole
from xkd.report.render import environment

_CSV = (
    *("table", "preset", "encoder", "epoch", "dataset", "modality", "protocol", "split", "seeds"),
    *("mean", "std", "n", "difference", "low", "high", "outcome", "verdicts", "missing"),
)
_MINUS = "\N{MINUS SIGN}"


def write_results(
    tables: Sequence[Table],
    scale: str,
    seeds: int,
    datasets: Mapping[str, PreparedDataset],
    settings: Sequence[str],
    out: Path,
) -> Path:
    """Write the results of tables, print them, and return the page.

    Writes to `out`: ablations.html (self-contained), ablations.md, ablations.csv and figures/. The other
    arguments are as of `collect`.
    """
    results = [collect(table, scale, seeds, datasets, settings, out / RUNS) for table in tables]
    figures = {result.table.name: _draw(result, out / "figures") for result in results}
    observed = observe(results, scale, out / RUNS)
    alike = comparable(observed)
    facts = {
        "results": results,
        "scale": scale,
        "dataset": next(iter(datasets)),
        "early": predictions(alike),
        "steps": alike[0].steps if alike else 0,
        "places": list(product(scored_columns(alike), FRACTIONS)),
        "judged": judge_verdicts(observed),
        "scored": scored_columns(observed),
    }
    text = _render("ablations.md.j2", **facts)
    write_text(out / "ablations.md", text)
    write_text(out / "ablations.csv", _csv(results))
    if facts["early"]:
        save(lambda: early_signals(alike), out / "figures/early_signals.svg")
        figures["early"] = whole(out / "figures/early_signals.svg", "Final scores over early signals")
    page = out / "ablations.html"
    write_text(page, _render("ablations.html.j2", **facts, figures=figures, contents=[]))
    print(f"{text}\nresults: {page}", flush=True)
    return page


def _render(template: str, **facts: object) -> str:
    jinja = environment("xkd.ablation")
    for filter_ in (row_title, ours, change, paper, paper_head, gain, correlations, holes):
        jinja.filters[filter_.__name__] = filter_
    return jinja.get_template(template).render(**facts)


def number(value: float | None, sign: bool = False) -> str:
    """Return a number with one digit, with a real minus sign; empty for None and NaN."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:{'+' if sign else ''}.1f}".replace("-", _MINUS)


def row_title(row: ResultRow, result: Result) -> str:
    """Return a row's heading: its preset in words, and its encoder or epoch where a table has several."""
    return ", ".join([row.row.title.rstrip(".").split(";")[0], *_details(row, result)])


def _details(row: ResultRow, result: Result) -> list[str]:
    """Return what distinguishes a row from the others of its preset."""
    parts = list[str]()
    several = len(result.table.encoders) > 1 or row.row.role != row.row.column_role
    if several and row.row.role != "random":
        parts.append(row.row.role)
    if row.row.epoch is not None:
        parts.append(f"after {row.row.epoch} epochs")
    return parts


def _name(row: ResultRow, result: Result) -> str:
    """Return a row's short heading, of a figure."""
    if row.row.role == "random":
        return "random initialization"
    return ", ".join([row.row.preset, *_details(row, result)])


def paper_head(column: MeasuredColumn) -> str:
    """Return the heading of the paper's numbers."""
    return "paper: " + ", ".join(each.dataset_title for each in column.paper)


def ours(cell: Cell) -> str:
    """Return the mean, and with several seeds their standard deviation and number."""
    several = f" ± {number(cell.std)} ({len(cell.seeds)})" if cell.std is not None else ""
    return f"{number(cell.mean)}{several}" if cell.seeds else "\N{EN DASH}"


def change(cell: Cell) -> str:
    """Return the difference and its interval."""
    if (found := cell.difference) is None:
        return ""
    mean, low, high = (number(value, sign=True) for value in found)
    return f"{mean} [{low},\N{NO-BREAK SPACE}{high}]"


def paper(cell: Cell) -> str:
    """Return the paper's numbers with their differences."""
    parts = []
    for percent, points in zip(cell.paper, cell.paper_differences, strict=True):
        gain = f" ({number(points, sign=True)})" if points is not None else ""
        parts.append(f"{number(percent)}{gain}" if percent is not None else "\N{EN DASH}")
    return ", ".join(parts) if any(percent is not None for percent in cell.paper) else ""


def correlations(
    early: Sequence[Prediction], places: Sequence[tuple[Column, float]]
) -> list[tuple[str, list[str]]]:
    """Return a row per signal: its name, and its correlations with their intervals.

    `places` are a column and a share of the schedule each.
    """
    texts = {
        (p.signal, p.column, p.fraction): f"{p.correlation:+.2f} [{p.low:+.2f}, {p.high:+.2f}]".replace(
            "-", _MINUS
        )
        for p in early
    }
    return [(name, [texts.get((name, *place), "") for place in places]) for name in SIGNALS]


def gain(judged: Judged, column: Column) -> str:
    """Return the mean gain of runs over random initializations, and its standard deviation."""
    found = judged.gain(column)
    return f"{number(found[0], sign=True)} ± {number(found[1])}" if found else ""


def holes(result: Result) -> dict[str, str]:
    """Return why rows or their seeds have no number, or a verdict other than healthy, by title."""
    found = dict(result.impossible)
    for row in result.rows:
        parts = [
            f"seed {seed}: {verdict}" for seed, verdict in enumerate(row.verdicts) if verdict != "healthy"
        ]
        known = set(row.verdicts)
        for cell, column in zip(row.cells, result.columns, strict=True):
            why = {seed: text for seed, text in cell.missing.items() if text not in known}
            parts += [f"{column.measured.title}, seed {seed}: {text}" for seed, text in why.items()]
        if parts:
            found[row_title(row, result)] = "; ".join(parts)
    return found


def _draw(result: Result, folder: Path) -> list[Panel]:
    """Draw the figure of a table; none where nothing was measured."""
    if not any(cell.seeds for row in result.rows for cell in row.cells):
        return []
    path = folder / f"{result.table.name}.svg"

    def draw() -> Figure:
        if result.table.snapshots:
            return schedule(result)
        titles = [_name(row, result) for row in result.rows]
        return differences(result, titles)

    save(draw, path)
    return whole(path, f"{result.table.label}: {result.table.title}")


def _csv(results: Sequence[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV)
    for result in results:
        for row in result.rows:
            for cell, column in zip(row.cells, result.columns, strict=True):
                measured, found = column.measured, cell.difference
                writer.writerow(
                    [
                        *(result.table.name, row.row.preset, row.row.role, row.row.epoch or ""),
                        *(measured.dataset, measured.modality, measured.protocol, measured.split),
                        " ".join(f"{seed}:{each.percent:.2f}" for seed, each in cell.seeds.items()),
                        "" if math.isnan(cell.mean) else round(cell.mean, 3),
                        "" if cell.std is None else round(cell.std, 3),
                        len(cell.seeds),
                        *((round(x, 3) for x in found) if found else ("", "", "")),
                        *(cell.outcome, "; ".join(row.verdicts)),
                        "; ".join(f"seed {seed}: {why}" for seed, why in cell.missing.items()),
                    ]
                )
    return text.getvalue()
