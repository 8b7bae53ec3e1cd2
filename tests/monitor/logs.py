"""What TensorBoard's and MLflow's own readers find of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xkd.monitor.metrics import series
from xkd.monitor.mlflow_log import EXPERIMENT
from xkd.rundir import Row

Curves = dict[str, dict[int, float]]
"""Value by name and step."""


def logged(rows: Iterable[Row]) -> Curves:
    """Return what a log must have of rows."""
    found: Curves = {}
    for row in rows:
        for name, value in series(row):
            found.setdefault(name, {})[row["step"]] = value
    return found


def assert_equal(found: Curves, rows: Iterable[Row], rel: float = 0) -> None:
    expected = logged(rows)
    assert found.keys() == expected.keys()
    for name, curve in expected.items():
        assert found[name] == pytest.approx(curve, rel=rel, abs=0, nan_ok=True), name


def read_tensorboard(folder: Path) -> Curves:
    """Return the curves that TensorBoard shows, in float32."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    curves: Curves = {}
    for name in events.Tags()["scalars"]:
        points = events.Scalars(name)
        curves[name] = {point.step: point.value for point in points}
        assert len(curves[name]) == len(points)  # no step twice
    return curves


def read_mlflow(uri: str) -> list[tuple[Run, Curves]]:
    """Return the runs, the oldest first, each with its curves."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    found = []
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]):
        curves: Curves = {}
        for name in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, name)
            curves[name] = {point.step: point.value for point in points}
            assert len(curves[name]) == len(points)
        found.append((run, curves))
    return found
