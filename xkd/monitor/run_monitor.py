"""The monitor of a running run: its rows are written to metrics.jsonl, judged, and exported to Prometheus."""

from __future__ import annotations

import json
import os
import time
from collections import deque

from xkd.config.pretrain import WINDOW
from xkd.io import write_text
from xkd.log import get_logger
from xkd.monitor.collapse import CollapseThresholds, find_onset, judge
from xkd.monitor.exporter import MetricsExporter
from xkd.monitor.metrics import METRICS, RUN_VERDICTS
from xkd.rundir import Row, RunDir, Verdict

_log = get_logger(__name__)


class RunMonitor:
    """Writes rows, judges them and exports the newest one.

    A resumed run continues the series of the row that it resumes at. Monitoring never ends a run: a row that
    cannot be written is reported and still exported.

    Args:
        exporter: of this run; already serving, because a taken port may belong to another process of the run,
            whose rows must not be dropped.
        resume_step: rows of later steps, left by a crash, are dropped.
        write: False when another process writes metrics.jsonl.
    """

    def __init__(
        self,
        run: RunDir,
        thresholds: CollapseThresholds,
        exporter: MetricsExporter,
        resume_step: int = 0,
        *,
        write: bool = True,
    ) -> None:
        self.exporter = exporter
        self._run, self._thresholds, self._write = run, thresholds, write
        self._line_start = ""
        """A newline after a row that may have been written in part."""
        history = run.metrics()
        kept = [row for row in history if row["step"] <= resume_step]
        self.rows = deque(kept, WINDOW)
        """The rows that a verdict is based on."""
        counts = {
            field: max((row[field] for row in history if field in row), default=0)
            for metric in METRICS
            if metric.kind == "counter"
            for field in metric.fields.values()
        }
        self.skipped_clips = int(counts["skipped_unreadable"])
        """Unreadable clips so far, including those of steps that are repeated."""
        # Counters never decrease; a run that has just started is neither stalled nor late with a checkpoint.
        start = time.time()
        self._minimum = {"time": start, "checkpoint_time": start, **counts}
        limits = ("largest_entropy", "largest_information", "collapse_threshold")
        exporter.update(self._minimum | {name: getattr(thresholds, name) for name in limits})
        if write:
            write_text(run.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))
        if self.rows:
            self._export(self.rows[-1], self.judge())

    def log(self, row: Row) -> Verdict:
        """Write, judge and export one row; NaN and Infinity are written as such."""
        self.rows.append(row)
        if self._write:
            try:
                with self._run.metrics_file.open("a") as file:
                    file.write(self._line_start + json.dumps(row) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                self._line_start = ""
            except OSError as error:
                self._line_start = "\n"
                path, reason = self._run.metrics_file, error.strerror
                _log.warning("cannot write the row of step %d to %s: %s", row["step"], path, reason)
        verdict = self.judge()
        self._export(row, verdict)
        return verdict

    def judge(self) -> Verdict:
        """Return the verdict on the newest rows."""
        return judge(self.rows, self._thresholds)

    def find_onset(self) -> int:
        """Return the step at which the current collapse began."""
        return find_onset(self._run.metrics(), self._thresholds)

    def await_final_scrape(self, verdict: Verdict) -> None:
        """Export the final verdict until the next scrape, if Prometheus has scraped this run before."""
        self._export({}, verdict)
        self.exporter.await_scrape()

    def await_scrape_of_interruption(self) -> None:
        """Export that a signal ended the run until the next scrape, if Prometheus has scraped it before.

        A run that disappears without this raises an alert.
        """
        self.exporter.update({"interrupted_time": time.time()})
        self.exporter.await_scrape()

    def _export(self, row: Row, verdict: Verdict) -> None:
        raised = {name: max(row[name], minimum) for name, minimum in self._minimum.items() if name in row}
        verdicts = {f"verdict_{name}": float(name == verdict.verdict) for name in RUN_VERDICTS}
        self.exporter.update({**row, **raised, **verdicts})
