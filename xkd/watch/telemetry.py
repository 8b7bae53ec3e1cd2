"""What a run tells while it runs: metrics.jsonl for files, a Prometheus endpoint for dashboards."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from xkd.errors import UserError
from xkd.files import write_text

Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """One exported series: the Prometheus name, its help text, and the row's fields by label value."""

    name: str
    description: str
    fields: Mapping[str, str]
    """Label value to field of a metrics.jsonl row."""
    label: str | None = None


def _one(name: str, description: str, field: str) -> Metric:
    return Metric(name, description, {"": field})


_MODALITIES = ("video", "audio")
_DIRECTIONS = ("video_to_audio", "audio_to_video")

METRICS = (
    _one("xkd_step", "Optimizer steps done", "step"),
    _one("xkd_epoch", "Passes over the data, with the fraction of the current one", "epoch"),
    _one("xkd_loss", "Objective of Equation 12", "loss"),
    Metric(
        "xkd_reconstruction_loss",
        "Masked reconstruction L_ae",
        {m: f"reconstruct_{m}" for m in _MODALITIES},
        "modality",
    ),
    Metric(
        "xkd_alignment_mmd",
        "Squared MMD between the modalities, or of a teacher and the other modality's student",
        {pair: f"align_{pair}" for pair in ("student", "teacher", *_DIRECTIONS)},
        "pair",
    ),
    Metric("xkd_kd_nats", "Cross-modal distillation loss", {d: f"kd_{d}" for d in _DIRECTIONS}, "direction"),
    Metric(
        "xkd_kld_nats", "KL(teacher || student), tracked", {d: f"kld_{d}" for d in _DIRECTIONS}, "direction"
    ),
    Metric(
        "xkd_teacher_entropy_nats",
        "Mean entropy of the teacher's distributions",
        {m: f"teacher_entropy_{m}" for m in _MODALITIES},
        "modality",
    ),
    _one("xkd_learning_rate", "Learning rate", "lr"),
    _one("xkd_teacher_momentum_ratio", "Momentum of the teachers' moving average", "momentum"),
    Metric(
        "xkd_teacher_temperature",
        "Temperature of the teacher's distributions",
        {m: f"teacher_temperature_{m}" for m in _MODALITIES},
        "modality",
    ),
    _one("xkd_gradient_norm", "L2 norm of the students' gradients before clipping", "grad_norm"),
    _one("xkd_samples_per_second", "Clips trained on per second", "samples_per_second"),
    _one("xkd_data_wait_ratio", "Share of a step spent waiting for data", "data_wait_ratio"),
    _one("xkd_skipped_clips", "Clips that could not be read and were replaced", "skipped_clips"),
    _one("xkd_skipped_steps", "Steps left out because fp16 gradients overflowed", "skipped_steps"),
)


class Telemetry:
    """Appends rows to metrics.jsonl and shows the newest one at ``/metrics``.

    Every series is NaN until its first row: a fresh gauge would read 0 and look like a collapse.
    """

    def __init__(self, run: Path, port: int | None, resume_step: int = 0, *, write: bool = True) -> None:
        """Start telling.

        Args:
            run: the run directory; its name is the ``run`` label.
            port: where to serve, 0 for any free port, None not to serve.
            resume_step: rows of later steps, which a crash left behind, are dropped.
            write: False where another process writes the file.
        """
        self.path = run / "metrics.jsonl"
        self.rows = [row for row in read_rows(self.path) if row["step"] <= resume_step] if resume_step else []
        self._write = write
        if write:
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
        registry = CollectorRegistry()
        self._series: list[tuple[Gauge, str]] = []
        for metric in METRICS:
            gauge = Gauge(
                metric.name,
                metric.description,
                ["run", *([metric.label] if metric.label else [])],
                registry=registry,
            )
            for value, field in metric.fields.items():
                series = gauge.labels(run.name, *([value] if metric.label else []))
                series.set(float("nan"))
                self._series.append((series, field))
        self.address = self._serve(port, registry)

    def log(self, row: Row) -> None:
        """Record one row; numbers that are not finite stay in the file as NaN or Infinity."""
        self.rows.append(row)
        if self._write:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        for series, field in self._series:
            if field in row:
                series.set(row[field])

    @staticmethod
    def _serve(port: int | None, registry: CollectorRegistry) -> str | None:
        if port is None:
            return None
        try:
            server, _ = start_http_server(port, registry=registry)
        except OSError as error:
            raise UserError(
                f"run.metrics_port {port}: {error.strerror}; choose another port, or 0 for any free one"
            ) from None
        return f"http://localhost:{server.server_port}/metrics"


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line torn by a crash is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
