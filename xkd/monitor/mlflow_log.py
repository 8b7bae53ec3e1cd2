"""The metrics of a run in MLflow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xkd.config import PretrainConfig
from xkd.config.overrides import to_dict
from xkd.errors import UserError
from xkd.io import one_line
from xkd.monitor.follower import End
from xkd.monitor.metrics import INFO, series
from xkd.rundir import Row

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EXPERIMENT = "xkd"
"""Name of the experiment that all runs are in."""
_LAST = "xkd_loss"
"""Every row has it, and it is sent last: a step that MLflow has of it is there as a whole."""
_MOST_METRICS, _MOST_PARAMS = 1000, 100
"""MLflow's limits of a request."""
_ENVIRONMENT = {
    # Its own patience would hide for minutes that a server is away, and hold up the end of a run.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # The setting asks for a folder; MLflow 3 refuses one without this.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    # Standard output is for results.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Else it reports its use to its publisher.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Settings of MLflow's client that differ from its defaults; it reads them when it is imported or used."""


class MlflowLog:
    """A run of MLflow, with the settings as parameters and facts about the run as tags.

    It is found by its tags, so that a resumed run continues it, and no request that was repeated makes a
    second one. What MLflow has cannot be taken back: steps that are repeated after a crash keep their first
    values, and after a rollback there is a new run.

    Args:
        uri: of the server or folder.
        name: of the run.
        info: content of run.json.
    """

    title = "MLflow"

    def __init__(self, uri: str, name: str, config: PretrainConfig, info: Mapping[str, Any]) -> None:
        self._uri, self._name = uri, name
        self._params = dict(_settings(to_dict(config)))
        self._tags = {fact: str(info.get(fact, "")) for fact in INFO}
        self._identity = {"xkd_id": str(info["id"]), "xkd_rollbacks": str(len(info.get("rollbacks", [])))}
        self._run_id = ""

    def open(self) -> int:
        """Find or create the run, and return its newest complete step."""
        from mlflow.entities import Param, RunTag

        self._client = _client(self._uri)
        run = self._find()
        self._run_id = run.info.run_id
        params = [Param(name, value) for name, value in self._params.items() if name not in run.data.params]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + _MOST_PARAMS])
        self._client.log_batch(self._run_id, tags=[RunTag(*tag) for tag in self._tags.items()])
        self._client.update_run(self._run_id, "RUNNING")
        history = self._client.get_metric_history(self._run_id, _LAST)
        return max((metric.step for metric in history), default=0)

    def send(self, rows: Sequence[Row]) -> None:
        """Log rows, whole ones in each request."""
        batch: list[Metric] = []
        for row in rows:
            metrics = _metrics(row)
            if len(batch) + len(metrics) > _MOST_METRICS:
                self._log(batch)
                batch = []
            batch += metrics
        self._log(batch)

    def end(self, end: End) -> None:
        """Set the status, and the verdict as tags."""
        if end.verdict:
            self._client.set_tag(self._run_id, "verdict", end.verdict.verdict)
            self._client.set_tag(self._run_id, "verdict_reason", end.verdict.reason)
        self._client.set_terminated(self._run_id, end.status)

    def _log(self, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _MOST_METRICS])

    def _find(self) -> Run:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
        query = " and ".join(f"tags.{name} = '{value}'" for name, value in self._identity.items())
        found = self._client.search_runs([number], query, max_results=1)
        return (
            found[0] if found else self._client.create_run(number, tags=self._identity, run_name=self._name)
        )


def require_mlflow(uri: str) -> None:
    """Check that MLflow is installed and can open a URI; whether a server answers is left open.

    Raises:
        UserError: it is not, or cannot.
    """
    try:
        _client(uri)
    except ImportError as error:  # the client alone has nothing for databases
        package = "'xkd[mlflow]'" if error.name == "mlflow" else "mlflow"
        raise UserError(f"run.mlflow needs {error.name}: pip install {package}") from None
    except Exception as error:  # of the library of any kind of store
        raise UserError(f"run.mlflow {uri!r}: {one_line(error)}") from None


def _client(uri: str) -> MlflowClient:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _metrics(row: Row) -> list[Metric]:
    from mlflow.entities import Metric

    metrics = [Metric(name, float(v), int(1000 * row["time"]), row["step"]) for name, v in series(row)]
    return sorted(metrics, key=lambda metric: metric.key == _LAST)


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted names and texts of the settings; of ``run`` only the seed, as others may change."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        elif prefix != "run." or name == "seed":
            yield f"{prefix}{name}", str(value)
