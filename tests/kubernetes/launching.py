"""Launchers that tests start, and what their jobs do."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import Cluster
from tests.tiny import tiny_config
from tests.waiting import until
from xkd.launch.kubernetes.client import POLL_POLICY, PollPolicy
from xkd.launch.kubernetes.config import ClusterConfig
from xkd.launch.launcher import launch
from xkd.rundir import Verdict

QUICK = PollPolicy(first=0.05, longest=0.1, patience=2.0)
HEALTHY: dict[str, Any] = {"verdict": "healthy", "reason": "it learns", "step": 28}
COLLAPSED: dict[str, Any] = {"verdict": "one_hot", "reason": "KD is 0", "step": 12}
ROOT = Path(__file__).resolve().parents[2]
IN_A_POD = """
mount -t tmpfs none /var/run
mkdir -p /var/run/secrets/kubernetes.io
ln -s "$0" /var/run/secrets/kubernetes.io/serviceaccount
exec "$@"
"""
"""Shell script that puts the folder of a service account where a pod has it, in a mount namespace."""
CONFIG = ClusterConfig(nodes=2, resources={"limits": {"nvidia.com/gpu": "2", "cpu": "64"}})


def report(message: str, code: int, **extra: Any) -> str:
    """A termination message as xkd.launch.agent writes it."""
    return json.dumps({"message": {"message": message, "errorCode": code, "extraInfo": extra}})


class Launch(threading.Thread):
    """A launcher in a thread, and what it returned or raised."""

    def __init__(
        self, config: ClusterConfig = CONFIG, run_id: str = "", out: Path = Path("runs/mine")
    ) -> None:
        super().__init__(daemon=True)
        self.config, self.run_id, self.out = config, run_id, out
        self.result: Verdict | BaseException | None = None
        self.ended = False
        self.start()

    def run(self) -> None:
        try:
            paths = Path("runs/data"), self.out
            self.result = launch(tiny_config(), *paths, cluster=self.config, run_id=self.run_id)
        except BaseException as error:
            self.result = error
        self.ended = True

    def end(self) -> Verdict | BaseException | None:
        self.join(timeout=60)
        assert self.ended
        return self.result


class Shown:
    """What launchers have printed so far; a test waits for it rather than for a time."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._out, self._err, self._capsys = "", "", capsys

    def read(self) -> str:
        out, err = self._capsys.readouterr()
        self._out, self._err = self._out + out, self._err + err
        return self._out + self._err

    def wait(self, text: str) -> None:
        until(lambda: text in self.read())


def started(cluster: Cluster, **options: Any) -> Launch:
    """Return a launcher whose job runs."""
    launcher = Launch(**options)
    until(lambda: cluster.jobs or launcher.ended)
    assert launcher.result is None, launcher.result
    cluster.phase("Pending")
    cluster.start()
    return launcher


def complete(cluster: Cluster) -> None:
    cluster.end_pod(0, 0, report("finished", 0, verdict=HEALTHY))
    cluster.end_pod(1, 0)
    cluster.phase("Completed", cluster.job["status"]["retryCount"])


def fail(cluster: Cluster, *arguments: Any, phase: str = "Failed", **options: Any) -> None:
    cluster.end_pod(0, 143)
    cluster.end_pod(1, *arguments, **options)
    cluster.phase(phase, cluster.job["spec"]["maxRetry"] if phase == "Failed" else 0)


class Command:
    """A launcher as a process of its own, whose job runs."""

    def __init__(
        self,
        cluster: Cluster,
        run_id: str = "",
        terminal: bool = False,
        before: Sequence[str] = (),
        policy: PollPolicy = POLL_POLICY,
    ) -> None:
        program = [
            "from pathlib import Path",
            "from tests.tiny import tiny_config as tiny",
            "from xkd.launch.kubernetes import client",
            "from xkd.launch.kubernetes.config import ClusterConfig",
            "from xkd.launch.launcher import launch",
            f"client.POLL_POLICY = client.{policy}",
            f"launch(tiny(), Path('runs/data'), Path('runs/mine'), 1, ClusterConfig(nodes=2), {run_id!r})",
        ]
        self.terminal, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", "\n".join(program)],
            cwd=ROOT,
            stdin=slave if terminal else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(slave)
        self.said = ""
        until(lambda: cluster.jobs)
        if "status" not in cluster.job:
            cluster.start()
        self.wait("Running\n")

    def wait(self, text: str) -> None:
        assert self.process.stderr
        while text not in self.said:
            character = self.process.stderr.read(1)
            assert character, self.said
            self.said += character

    def end(self, timeout: float = 60) -> int:
        _, said = self.process.communicate(timeout=timeout)
        self.said += said
        os.close(self.terminal)
        return self.process.returncode
