"""The logs of other programs that a run's settings ask for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from xkd.config import RunConfig
from xkd.errors import extra_required
from xkd.monitor.follower import End, Follower, Sink
from xkd.monitor.mlflow_log import MlflowLog, require_mlflow
from xkd.monitor.tensorboard_log import TensorBoardLog
from xkd.rundir import RunDir, Verdict

_SECONDS = 60.0
"""Longest wait at the end of a run for a log that does not answer."""
_SECONDS_INTERRUPTED = 10.0
"""The same of a run that is interrupted, and soon killed."""


class Loggers:
    """Followers of a run's metrics.jsonl; a context, at whose end a part of the run has ended.

    Args:
        info: content of run.json.
        resume_step: step at which this part of the run begins.
        write: False in processes other than the main one, which log nothing.
    """

    def __init__(self, run: RunDir, info: Mapping[str, Any], resume_step: int, *, write: bool = True) -> None:
        config = run.config()
        self._followers: list[Follower] = []
        if write and config.run.tensorboard:
            self._follow(run, TensorBoardLog(run.tensorboard, resume_step))
        if write and config.run.mlflow:
            self._follow(run, MlflowLog(config.run.mlflow, run.name, config, info))

    def notify(self) -> None:
        """Say that metrics.jsonl has a new row."""
        for follower in self._followers:
            follower.notify()

    def end(self, verdict: Verdict) -> None:
        """Send what is left of a run that has its verdict."""
        self._close(End("FAILED" if verdict.failed else "FINISHED", verdict), _SECONDS)

    def interrupt(self) -> None:
        """Send what is left of a run that was interrupted, and may be resumed."""
        self._close(End("KILLED"), _SECONDS_INTERRUPTED)

    def roll_back(self) -> None:
        """Send what is left of a part of a run that was rolled back; no later part continues it."""
        self._close(End("FAILED"), _SECONDS_INTERRUPTED)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is left of a run that failed, unless its end was sent."""
        self._close(End("FAILED"), _SECONDS_INTERRUPTED)

    def _follow(self, run: RunDir, sink: Sink) -> None:
        self._followers.append(Follower(run.metrics_file, sink))

    def _close(self, end: End, seconds: float) -> None:
        followers, self._followers = self._followers, []
        deadline = time.monotonic() + seconds
        for follower in followers:
            follower.close(end, max(0.0, deadline - time.monotonic()))


def require_loggers(settings: RunConfig) -> bool:
    """Return whether the settings ask for a log; what it needs is installed.

    Raises:
        UserError: a package is missing, or MLflow cannot open the URI.
    """
    if settings.tensorboard:
        with extra_required("run.tensorboard", "tensorboard"):
            import tensorboard  # noqa: F401
    if settings.mlflow:
        require_mlflow(settings.mlflow)
    return bool(settings.tensorboard or settings.mlflow)
