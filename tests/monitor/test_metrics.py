"""The table of metrics: complete, consistent, and the only source of names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from xkd.model import terms
from xkd.monitor.metrics import INFO, LABELS, METRICS, RANK, SCORE, TABLE, UNITS, page

FIELDS = [field for metric in TABLE for field in metric.fields.values()]


def test_the_page_is_generated_from_the_table() -> None:
    """``python -m xkd.monitor.metrics > docs/metrics.md``."""
    assert Path("docs/metrics.md").read_text() == page()
    assert all(f"`{label}`" in page() for label in (*INFO, SCORE))


def test_names_and_fields_are_unique_and_every_row_is_described() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert len(set(FIELDS)) == len(FIELDS)
    assert all(metric.field and metric.description for metric in TABLE)
    assert {metric.label for metric in TABLE} == {"", RANK, *LABELS}
    assert {metric.unit for metric in METRICS} == {"", *UNITS}


def test_every_term_of_the_model_is_in_the_table() -> None:
    tables = [value for name, value in vars(terms).items() if name.isupper() and isinstance(value, dict)]
    names: set[str] = {str(field) for table in tables if table is not terms.SUMS for field in table.values()}
    assert len(names) > 20
    assert names | set(terms.SUMS) <= set(FIELDS)


def test_the_plots_of_dvc_name_only_fields_of_the_table() -> None:
    plots: list[dict[str, dict[str, Any]]] = yaml.safe_load(Path("dvc.yaml").read_text())["plots"]
    curves = [plot for entry in plots for plot in entry.values() if isinstance(plot.get("y"), dict)]
    plotted = {
        field
        for plot in curves
        for file, fields in plot["y"].items()
        if file.endswith("curves.csv")
        for field in [plot["x"], *fields]
    }
    assert len(plotted) > 5
    assert plotted <= set(FIELDS)
