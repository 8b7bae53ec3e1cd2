"""The metrics of a run: Prometheus series and the fields of metrics.jsonl that they come from.

``python -m xkd.monitor.metrics`` prints docs/metrics.md.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Template

from xkd.config import MODALITIES
from xkd.model.terms import ALIGN, DIRECTIONS

UNITS = ("nats", "seconds", "bytes", "steps", "ratio")
"""Suffixes of metric names that are units."""
PHASES = ("data_wait", "forward_backward", "optimizer")
"""Phases of a step, in their order."""
RUN_VERDICTS = ("healthy", "one_hot", "constant", "non_finite")
"""Verdicts of a run on itself. "stalled" is detected from outside: by ``xkd watch`` and alert XKDStalled."""
DEFAULT_SCRAPE_SECONDS = 60.0
"""Prometheus's default scrape interval: values that are about to disappear are kept for as long."""
LABELS: Mapping[str, tuple[str, ...]] = {
    "direction": DIRECTIONS,
    "modality": MODALITIES,
    "pair": tuple(ALIGN),
    "reason": ("unprepared", "without_modality", "too_short", "unreadable"),
    "phase": PHASES,
    "verdict": RUN_VERDICTS,
}
"""Values of each label."""


@dataclass(frozen=True)
class Metric:
    """A row of metrics.csv."""

    name: str
    """Name in Prometheus; empty for a field that is only logged."""
    label: str
    """Key of `LABELS`; empty for a single series."""
    field: str
    """Field of metrics.jsonl; with a label, ``_`` and the label's value follow."""
    paper: str
    """Equation, section or table of the paper."""
    description: str

    @property
    def kind(self) -> str:
        """The Prometheus type, by the naming convention."""
        return "counter" if self.name.endswith("_total") else "gauge"

    @property
    def unit(self) -> str:
        """The unit that the name ends in; empty for a count or a number without a unit."""
        suffix = self.name.rpartition("_")[2]
        return suffix if suffix in UNITS else ""

    @property
    def fields(self) -> dict[str, str]:
        """Field by label value; the key is "" without a label."""
        return {v: f"{self.field}_{v}" for v in LABELS[self.label]} if self.label else {"": self.field}


with Path(__file__).with_name("metrics.csv").open(encoding="utf-8", newline="") as _file:
    TABLE = tuple(Metric(**row) for row in csv.DictReader(_file))
METRICS = tuple(metric for metric in TABLE if metric.name)
"""The rows with a Prometheus metric."""

INFO = ("preset", "commit", "dataset", "data_revision", "processes", "device", "torch", "kfp_run")
"""Labels of ``xkd_run_info``, a series that is always 1, besides ``run``."""
SCORE = "xkd_evaluation_score"
"""The metric that `xkd.monitor.exporter.push_scores` pushes."""
SCORE_LABELS = ("dataset", "modality", "protocol", "encoder", "fold")


def page() -> str:
    """Return the text of docs/metrics.md."""
    template = Path(__file__).with_name("metrics.md.j2").read_text(encoding="utf-8")
    return f"{Template(template, trim_blocks=True).render(table=TABLE, score_labels=SCORE_LABELS)}\n"


if __name__ == "__main__":
    print(page(), end="")
