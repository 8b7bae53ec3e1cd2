"""The state of a pretraining run on disk: its checkpoints, its provenance, its time and its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.io import write_json
from xkd.launch.distributed import DistributedContext
from xkd.log import get_logger
from xkd.rundir import RunDir, Verdict
from xkd.train.checkpoint import Checkpoints

_log = get_logger(__name__)


class RunState:
    """Records a run in its directory, which is claimed, and keeps its checkpoints.

    Raises:
        UserError: it was started on other data.
    """

    def __init__(self, run: RunDir, dataset: PreparedDataset, context: DistributedContext) -> None:
        self.dir, self.context, config = run, context, run.config()
        settings = config.run
        self.max_rollbacks = settings.max_rollbacks if settings.on_collapse == "rollback" else 0
        """Number of rollbacks that the configuration allows."""
        self.checkpoints = Checkpoints(
            run.checkpoints, config.run.keep_checkpoints, config.run.checkpoint_every
        )
        self._begin = time.time()
        self.info: dict[str, Any] = run.info()
        """Content of run.json."""
        revision = self.info.get("data_revision", dataset.revision)
        if revision != dataset.revision:
            raise UserError(
                f"{run.path} was started on data revision {revision[:12]}, not {dataset.revision[:12]}; "
                "use another --out"
            )
        self.info.setdefault("id", uuid.uuid4().hex)
        self.info |= {
            "preset": config.preset,
            "seed": config.run.seed,
            "dataset": dataset.name,
            "data_revision": dataset.revision,
            "data_origin": dataset.origin,
            "commit": git_commit(),
            "processes": context.size,
            "device": torch.cuda.get_device_name() if context.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "kfp_run": os.environ.get("KFP_RUN_ID", ""),
        }

    @property
    def rollbacks(self) -> int:
        """Number of rollbacks so far."""
        return len(self.info.get("rollbacks", []))

    def record_start(self, first: int, steps: int, metrics_address: str | None) -> None:
        """Record that training starts after `first` of `steps` steps."""
        self._begin = time.time() - self.info.get("seconds", 0.0)
        if (before := self.info.get("steps", steps)) != steps:
            self.info["extended_after"] = [*self.info.get("extended_after", []), before]
        self.info["steps"] = steps
        if not self.context.is_main:
            return
        write_json(self.dir.info_file, self.info)
        resumed = f", resumed after step {first}" if first else ""
        metrics = f", metrics at {metrics_address}" if metrics_address else ""
        _log.info(f"pretrain: {steps} steps into {self.dir.path}{resumed}{metrics}")

    def record_time(self) -> None:
        """Record how long the run has trained so far."""
        self.info["seconds"] = time.time() - self._begin
        if self.context.is_main:
            write_json(self.dir.info_file, self.info)

    def record_rollback(self, verdict: Verdict, step: int) -> None:
        """Record a rollback to `step`, which `finish_rollback` completes, and keep the metrics before it."""
        self.info["rollbacks"] = [*self.info.get("rollbacks", []), {**verdict.to_dict(), "to": step}]
        self.info["rolling_back"] = True
        if self.context.is_main:
            copy = f"metrics_before_rollback_{self.rollbacks}.jsonl"
            shutil.copy(self.dir.metrics_file, self.dir.path / copy)
        self.record_time()

    def finish_rollback(self) -> None:
        """Discard the later states of a rollback that is recorded but not complete, if there is one.

        The record is first: a run that is killed before it repeats the rollback, one that is killed after it
        finishes it when it is resumed.
        """
        if not self.info.pop("rolling_back", False) or not self.context.is_main:
            return
        step = self.info["rollbacks"][-1]["to"]
        self.dir.withdraw(step, f"before_rollback_{self.rollbacks}")
        self.checkpoints.drop_after(step)
        write_json(self.dir.info_file, self.info)

    def record_end(self, verdict: Verdict) -> None:
        """Record the end of the run: the verdict is written last and marks it."""
        self.record_time()
        if self.context.is_main:
            write_json(self.dir.verdict_file, verdict.to_dict())


def git_commit() -> str:
    """Return the commit of the running code: of its checkout, else of the image's build, else "unknown"."""
    here = Path(__file__).resolve().parent
    with suppress(FileNotFoundError):  # an image has no git
        command = ["git", "-C", str(here), "rev-parse", "--verify", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    return os.environ.get("XKD_COMMIT", "unknown")
