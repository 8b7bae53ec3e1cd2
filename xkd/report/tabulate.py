"""Tables, figures and a self-contained page from a run and its scores."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

from xkd.evaluation.plan import read_tasks
from xkd.evaluation.score import Score
from xkd.io import write_json, write_text
from xkd.launch.interrupts import stop_signals_raised
from xkd.log import get_logger
from xkd.model.terms import ALIGN, DIRECTIONS, KD, KLD, RECONSTRUCT, TEACHER_ENTROPY
from xkd.monitor.exporter import push_scores
from xkd.monitor.metrics import SCORE_LABELS
from xkd.report.aggregate import Record
from xkd.report.collect import ReportData, collect
from xkd.report.figures import draw_figures
from xkd.report.plots.training import MAX_POINTS, thin
from xkd.report.render import render
from xkd.rundir import Row

_LOG = get_logger(__name__)
_TABLE_FIELDS = (
    *("row", "encoder", "dataset", "modality", "protocol", "metric", "split"),
    *("mean", "std", "n", "over", "paper", "difference", "source"),
)
_DRAWN = (
    *("step", "loss", "lr"),
    *(name for term in (RECONSTRUCT, ALIGN, KD, KLD, TEACHER_ENTROPY) for name in term.values()),
)
"""Columns of curves.csv that the plots of dvc.yaml name, whether or not the run has logged them."""
_NESTED = (
    "classes",
    "untrained",
    "per_class",
    "confusion",
    "sweep",
    "finetune",
    "curve",
    "retrieval",
    "windows",
    "settings",
)
"""Fields of a score that scores.csv leaves out or spreads."""


def tabulate(
    run: Path,
    scores: Path,
    out: Path,
    pushgateway: str = "",
    compare: Sequence[Path] = (),
    tasks: str | Path | None = None,
) -> Path:
    """Write the report of a run, alone or compared with others, and return report.html.

    Writes to `out`: report.html (self-contained), the tables as tables.md, tables.tex and tables.csv,
    scores.csv (every score), scores.json (numbers for ``dvc metrics``), curves.csv (for ``dvc plots``) and
    figures/; prints the tables. Missing scores leave empty cells, with the reason below the table; scores of
    another run or with other settings are left out and listed (`xkd.report.select.select_scores`). A
    collapsed run that was not evaluated, and one that has not finished, give a report without tables.

    Args:
        run: run directory.
        scores: directory of score files; may be missing if the run collapsed or has not finished, or if it is
            the run's own.
        pushgateway: URL of a Prometheus Pushgateway that receives the scores for a minute; empty: none.
        compare: other run directories, each with its scores in ``scores/``; runs that differ only in the
            seed become one row.
        tasks: file such as ``params.yaml`` with the tasks to show and their settings; None: all that have a
            score.

    Raises:
        UserError: there is no run, a run is given twice, or a task is impossible.
    """
    data = collect(run, scores, compare, read_tasks(tasks) if tasks else None)
    for path, reason in data.left_out.items():
        _LOG.warning("left out %s: %s", path, reason)
    figures = draw_figures(data, out / "figures")
    tables = render("tables.md.j2", data, figures)
    write_text(out / "tables.md", tables)
    write_text(out / "tables.tex", render("tables.tex.j2", data, figures))
    _write_csv(out / "tables.csv", _TABLE_FIELDS, map(_table_row, data.comparison.records))
    write_json(out / "scores.json", dvc_metrics(data))
    _write_scores(data.run.scores, out / "scores.csv")
    _write_curves(data.history, out / "curves.csv")
    report = out / "report.html"
    write_text(report, render("report.html.j2", data, figures))
    print(f"{tables}\nreport: {report}", flush=True)  # before the minute that a push takes
    if pushgateway:
        pushed = [({name: str(getattr(s, name)) for name in SCORE_LABELS}, s.score) for s in data.run.scores]
        with stop_signals_raised():
            push_scores(data.run.dir.name, pushed, pushgateway)
    return report


def dvc_metrics(data: ReportData) -> dict[str, Any]:
    """Return the numbers that ``dvc metrics`` shows: verdict, last losses, scores and gains in [0, 1]."""
    result: dict[str, Any] = {"verdict": data.run.verdict.verdict, "step": data.run.verdict.step}
    if not data.run.finished:
        result["state"] = data.run.state
    if data.history:
        names = ("loss", *(term[direction] for direction in DIRECTIONS for term in (KD, KLD)))
        last = data.history[-1]
        result["pretrain"] = {name: last[name] for name in names if math.isfinite(last.get(name, math.nan))}
    for table in data.tables:
        rows: dict[str, dict[str, float]] = {}
        for record in chain.from_iterable(map(table.column, table.columns)):
            if record.mean is not None:
                rows.setdefault(record.encoder, {})[record.column.name] = _share(record.mean)
                gain = table.gain(record)
                if record.encoder == "teacher" and gain is not None:
                    rows.setdefault("teacher_gain", {})[record.column.name] = _share(gain)
        if rows:
            rows["chance"] = {column.name: _share(chance) for column, chance in table.chances.items()}
            result[table.dataset] = rows
    return result


def _table_row(record: Record) -> list[Any]:
    """Return the values of `_TABLE_FIELDS`, numbers in percent."""
    column, paper = record.column, record.paper
    ours = (_rounded(record.mean), _rounded(record.std), record.n, record.over)
    theirs = (paper.percent, _rounded(record.paper_difference), paper.source) if paper else ("", "", "")
    return [
        *(record.group.title, record.encoder, column.dataset, column.spec.modality, column.spec.protocol),
        *(column.metric, column.split, *ours, *theirs),
    ]


def _write_scores(scores: Sequence[Score], path: Path) -> None:
    names = [field.name for field in fields(Score) if field.name not in _NESTED]
    rows = [
        [
            *(getattr(score, name) for name in names),
            *("; ".join(score.untrained), score.windows["train"], score.windows["test"]),
        ]
        for score in scores
    ]
    _write_csv(path, [*names, "untrained", "train_windows", "test_windows"], rows)


def _write_curves(history: Sequence[Row], path: Path) -> None:
    """Write the history, thinned, without lists; what is missing or no number is ``nan``: a gap in a plot.

    Plots of DVC would draw an empty cell as 0, and drop a plot of which one column does not exist.
    """
    rows = thin(history, MAX_POINTS)
    names = [name for row in rows for name, value in row.items() if not isinstance(value, list)]
    columns = dict.fromkeys([*_DRAWN, *names])
    _write_csv(path, list(columns), ([row.get(name, math.nan) for name in columns] for row in rows))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _share(percent: float) -> float:
    return round(percent / 100, 6)


def _rounded(percent: float | None) -> float | str:
    return "" if percent is None else round(percent, 2)
