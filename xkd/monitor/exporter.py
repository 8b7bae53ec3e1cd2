"""What a run tells while it runs: metrics.jsonl for files, a Prometheus endpoint for dashboards."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xkd.errors import UserError
from xkd.io import write_text
from xkd.monitor.collapse import VERDICTS, WINDOW, CollapseThresholds, judge, onset
from xkd.monitor.metrics import INFO, METRICS, USUAL_SCRAPE_SECONDS
from xkd.rundir import Row, Verdict, read_rows


class Telemetry:
    """Appends rows to metrics.jsonl, judges them, and shows the newest at ``/metrics``.

    A resumed run's series go on from the row it resumes at. Telemetry never ends a run: a row that cannot
    be written is reported, and served all the same.
    """

    def __init__(
        self,
        run: Path,
        port: int | None,
        limits: CollapseThresholds,
        resume_step: int = 0,
        constants: Mapping[str, float] | None = None,
        info: Mapping[str, Any] | None = None,
        *,
        write: bool = True,
        host: str = "127.0.0.1",
    ) -> None:
        """Start telling.

        Args:
            run: the run directory; its name is the ``run`` label.
            port: where to serve, 0 for any free port, None not to serve.
            limits: what the rows are judged by.
            resume_step: rows of later steps, which a crash left behind, are dropped.
            constants: fields that no row has.
            info: labels of ``xkd_run_info``; those of `metrics.INFO` are told.
            write: False where another process writes the file.
            host: address to serve at.

        Raises:
            UserError: the port is taken, or the address is not this machine's.
        """
        self.path, self._limits = run / "metrics.jsonl", limits
        everything = read_rows(self.path)
        rows = [row for row in everything if row["step"] <= resume_step]
        self.rows = deque(rows, WINDOW)
        """The newest rows, as many as a judgement rests on."""
        counted = {
            name: max((row[name] for row in everything if name in row), default=0)
            for metric in METRICS
            if metric.kind == "counter"
            for name in metric.fields.values()
        }
        self.skipped_clips = int(counted["skipped_unreadable"])
        """Unreadable clips so far, those of steps that are taken again too."""
        began = time.time()
        self._least = {"time": began, "checkpoint_time": began, **counted}
        """What has just begun is neither stalled nor late with its checkpoint, and no counter falls."""
        labels = {name: str((info or {}).get(name, "")) for name in INFO}
        levels = {
            "largest_entropy": limits.largest_entropy,
            "largest_information": limits.largest_information,
            "collapse_threshold": limits.zero,
        }
        self._series = _Series(run.name, labels, {**self._least, **levels, **(constants or {})})
        self._server, self.address = self._serve(
            host, port
        )  # before another run of the same name loses its rows
        self._write, self._gap = write, ""  # a new line after a row that was perhaps half written
        if write:
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        if self.rows:
            self._show(self.rows[-1], self.judge())

    def log(self, row: Row) -> Verdict:
        """Record one row; numbers that are not finite stay in the file as NaN or Infinity.

        Returns:
            The verdict on the newest rows.
        """
        self.rows.append(row)
        if self._write:
            try:
                with self.path.open("a") as file:
                    file.write(self._gap + json.dumps(row) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                self._gap = ""
            except OSError as error:
                self._gap = "\n"
                line = f"xkd: the row of step {row['step']} is not in {self.path}: {error.strerror}"
                print(line, file=sys.stderr, flush=True)
        verdict = self.judge()
        self._show(row, verdict)
        return verdict

    def judge(self) -> Verdict:
        """The verdict on the newest rows."""
        return judge(self.rows, self._limits)

    def onset(self) -> int:
        """The step before which nothing of what the newest rows show was seen."""
        return onset(read_rows(self.path), self._limits)

    def await_final_scrape(self, verdict: Verdict) -> None:
        """Show how the run ends until a Prometheus that came before comes once more."""
        self._show({}, verdict)
        served = self._series.served
        deadline = time.monotonic() + USUAL_SCRAPE_SECONDS
        while served and self._series.served == served and time.monotonic() < deadline:
            time.sleep(0.1)

    def close(self) -> None:
        """Free the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _show(self, row: Row, verdict: Verdict) -> None:
        told = {f"verdict_{name}": float(name == verdict.verdict) for name in VERDICTS}
        held = {name: max(row[name], least) for name, least in self._least.items() if name in row}
        self._series.values = {**self._series.values, **row, **held, **told}

    def _serve(self, host: str, port: int | None) -> tuple[Any, str | None]:
        if port is None:
            return None, None
        registry = CollectorRegistry()
        registry.register(self._series)
        try:
            server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise UserError(
                f"run.metrics_port {port}: {error.strerror}; choose another port, or 0 for any free "
                f"one, at run.metrics_host {host}"
            ) from None
        os.register_at_fork(after_in_child=server.socket.close)  # a loader's process must not keep the port
        return server, f"http://localhost:{server.server_port}/metrics"


class _Series(Collector):
    """The newest value of every field as Prometheus metrics.

    What has no value yet is NaN: a gauge of prometheus-client would read 0, which looks like a collapse.
    """

    def __init__(self, run: str, info: Mapping[str, str], values: Row) -> None:
        self._run, self._info = run, info
        self.values = values
        """Replaced as a whole, never changed: the server's thread reads it."""
        self.served = 0

    def describe(self) -> Iterable[Metric]:
        return []  # else registering would count as being served

    def collect(self) -> Iterable[Metric]:
        self.served += 1
        values = self.values
        about = GaugeMetricFamily("xkd_run_info", "What runs; always 1", labels=["run", *self._info])
        about.add_metric([self._run, *self._info.values()], 1)
        yield about
        for metric in METRICS:
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            labels = ["run", *([metric.label] if metric.label else [])]
            told = family(metric.name, metric.description, labels=labels)
            unknown = 0.0 if metric.kind == "counter" else math.nan
            for value, field in metric.fields.items():
                place = [self._run, *([value] if metric.label else [])]
                told.add_metric(place, values.get(field, unknown))
            yield told
