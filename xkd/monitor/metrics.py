"""The metrics of a run: Prometheus series and the fields of metrics.jsonl that they come from.

``python -m xkd.monitor.metrics`` prints docs/metrics.md.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Template

from xkd.config import MODALITIES
from xkd.model.terms import ALIGN, DIRECTIONS

UNITS = ("nats", "seconds", "bytes", "steps", "ratio")
"""Suffixes of metric names that are units."""
PHASES = ("data_wait", "forward", "backward", "optimizer")
"""Phases of a step, in their order. In `backward`, processes wait for each other's gradients; with
`run.accumulate`, it is the last backward pass, and `forward` is all before it."""
RANK = "rank"
"""Label of a metric with a value per process; its field is a list."""
RANK_PHASES = ("data_wait", "forward")
"""Phases in which a process does not wait for others: they show which one is slow."""
RUN_VERDICTS = ("healthy", "one_hot", "constant", "non_finite", "undecided")
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
    """Key of `LABELS`, or `RANK`; empty for a single series."""
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
        """Field by label value; the key is "" without such a label."""
        return {v: f"{self.field}_{v}" for v in LABELS.get(self.label, ())} or {"": self.field}

    def samples(self, values: Mapping[str, Any]) -> Iterator[tuple[list[str], float]]:
        """Yield the value of its label, if it has one, and its value, for each series among these fields."""
        missing = 0.0 if self.kind == "counter" else math.nan
        if self.label == RANK:
            yield from (([str(rank)], value) for rank, value in enumerate(values.get(self.field, [])))
            return
        for label, field in self.fields.items():
            yield [label] if label else [], values.get(field, missing)


def series(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield name and value of each metric in a row of metrics.jsonl, for logs that have names without labels.

    A name is that at ``/metrics``, followed by a slash and the value of the label: ``xkd_kd_nats/
    video_to_audio``. Steps and times are left out: such logs have them with each value.
    """
    for metric in METRICS:
        if metric.name == "xkd_step" or metric.name.endswith("_timestamp_seconds"):
            continue
        if metric.label == RANK:
            values = {str(rank): value for rank, value in enumerate(row.get(metric.field, ()))}
        else:
            values = {label: row[field] for label, field in metric.fields.items() if field in row}
        for label, value in values.items():
            yield f"{metric.name}/{label}" if label else metric.name, value


with Path(__file__).with_name("metrics.csv").open(encoding="utf-8", newline="") as _file:
    TABLE = tuple(Metric(**row) for row in csv.DictReader(_file))
VALIDATION_LOSS = "validation_loss"
"""The objective on split val; this and the next are in rows after `run.probe_every` epochs."""
KNN = {m: f"knn_{m}" for m in MODALITIES}
"""Share of labeled clips whose label the nearest neighbors of a modality's features give."""
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
    return (
        f"{Template(template, trim_blocks=True).render(table=TABLE, rank=RANK, score_labels=SCORE_LABELS)}\n"
    )


if __name__ == "__main__":
    print(page(), end="")
