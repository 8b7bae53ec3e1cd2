"""Faults of a run on two hosts, and the cost of each; also the scenarios of tests/system/test_hosts.py."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.hosts import Hosts, address
from xkd.config import PretrainConfig
from xkd.config.overrides import to_dict
from xkd.data.fetch.fetch import fetch
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.errors import RunInterruptedError
from xkd.launch.kubernetes.job import RENDEZVOUS_PORT
from xkd.rundir import Row, RunDir, Verdict

CHECKPOINT_STEPS = 20
"""Steps between two checkpoints."""
STEPS_BETWEEN_FAULTS = 25
TIMEOUT = 120.0
"""Seconds until a wait has failed."""


@dataclass(frozen=True)
class Recovery:
    """The cost of one fault."""

    fault: str
    seconds: float
    """From the fault to the first step that is trained after it; 0: training did not stop."""
    reached: int
    """Last step trained before the fault."""
    resumed: int
    """Step that the run resumed after."""
    hosts: int
    """Number of hosts that train after the fault."""

    @property
    def repeated(self) -> int:
        """Number of steps that are trained again."""
        return self.reached - self.resumed


def prepare_clips(folder: Path) -> Path:
    """Generate and prepare 40 clips; return the prepared directory."""
    fetch("embedded", folder / "source", clips=40)
    prepare(folder / "source", folder / "prepared", PrepareConfig(short_side=48, max_fps=8))
    return folder / "prepared"


class DisturbedRun:
    """A run on hosts, observed through its files and logs."""

    def __init__(self, hosts: Hosts, out: Path) -> None:
        self.hosts, self.dir = hosts, RunDir(out)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition.

        Raises:
            TimeoutError: it did not become true; the hosts' logs may say why.
        """
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no progress for {TIMEOUT:.0f} s; see {self.hosts.folder}/host*.log")
            time.sleep(0.05)

    def wait_for_end(self, hosts: int) -> None:
        """Wait for the verdict, and for the first `hosts` agents, which must exit with 0."""
        self.wait_until(lambda: self.dir.ended)
        assert [self.hosts.agent(number).wait(timeout=60) for number in range(hosts)] == [0] * hosts

    def measure(self, fault: str, cause: Callable[[], object]) -> Recovery:
        """Train for some steps, cause the fault, and measure until the next step is trained."""
        self.train()
        starts, fault_time, reached = len(self._starts()), time.time(), self._step()
        cause()
        self.wait_until(lambda: len(self._starts()) > starts)
        self.wait_until(lambda: self._first_row(fault_time))
        row, resumed = self._first_row(fault_time), self._starts()[-1]
        assert row
        # Workers that finish their step after the fault save one step more than was logged before it.
        reached = max(reached, resumed)
        return Recovery(fault, row["time"] - fault_time, reached, resumed, self.dir.info()["processes"])

    def endure(self, fault: str, cause: Callable[[], object]) -> Recovery:
        """Train for some steps, cause a fault elsewhere, and check that it does not stop the training."""
        self.train()
        starts, reached = len(self._starts()), self._step()
        cause()
        self.train()
        assert len(self._starts()) == starts, f"{fault}: the training was restarted"
        return Recovery(fault, 0.0, reached, reached, self.dir.info()["processes"])

    def train(self) -> None:
        """Wait while some steps are trained."""
        first = self._step()
        self.wait_until(lambda: self._step() >= first + STEPS_BETWEEN_FAULTS)

    def _step(self) -> int:
        rows = self.dir.metrics()
        return int(rows[-1]["step"]) if rows else 0

    def _starts(self) -> list[int]:
        """Return the step of each resumption."""
        lines = (self.hosts.folder / "host0.log").read_text(errors="replace").splitlines()
        return [int(line.rpartition(" ")[2]) for line in lines if "resumed after step" in line]

    def _first_row(self, after: float) -> Row | None:
        """Return the first row after the newest resumption, if it was logged after a time."""
        first = self._starts()[-1] + 1
        return next((r for r in self.dir.metrics() if r["time"] > after and r["step"] == first), None)


@contextmanager
def disturbed_run(folder: Path, data: Path, config: PretrainConfig, nodes: str) -> Iterator[DisturbedRun]:
    """Start a run on two hosts, whose processes miss each other after 15 seconds."""
    folder.mkdir(parents=True)
    out = folder / "run"
    run = replace(config.run, log_every=1, checkpoint_every=CHECKPOINT_STEPS, peer_seconds=15)
    settings = json.dumps(to_dict(replace(config, run=run)))
    worker = ["--settings", settings, "--data", str(data), "--out", str(out)]
    with Hosts(2, folder) as hosts:
        for number in range(hosts.count):
            agent = [sys.executable, "-m", "xkd.launch.agent", "--job", "hosts", "--nodes", nodes]
            agent += ["--node", str(number), "--address", address(number), "--restarts", "5"]
            agent += ["--rendezvous", f"{address(0)}:{RENDEZVOUS_PORT}"]
            hosts.commands[number] = [*agent, "xkd.train.pretrain", *worker]
            hosts.start(number)
        yield DisturbedRun(hosts, out)


def with_epochs(config: PretrainConfig, epochs: int) -> PretrainConfig:
    """Return the configuration with another number of epochs."""
    return replace(config, optim=replace(config.optim, epochs=epochs))


def fixed_hosts(
    folder: Path, data: Path, config: PretrainConfig, epochs: int = 30
) -> tuple[list[Recovery], Verdict]:
    """Run with two required hosts: when one ends, all agents are restarted, as Volcano does it.

    Returns:
        The cost of each fault, and the verdict on the run.
    """
    with disturbed_run(folder, data, with_epochs(config, epochs), "2:2") as run:
        hosts = run.hosts

        def disconnect() -> None:
            hosts.disconnect(1)
            run.wait_until(lambda: any(hosts.agent(number).poll() is not None for number in range(2)))
            hosts.reconnect(1)
            hosts.restart()

        def preempt(number: int) -> None:
            assert hosts.preempt(number) == RunInterruptedError.exit_code
            hosts.restart()

        def kill() -> None:
            hosts.kill(0)
            hosts.restart()

        costs = [
            run.measure("kill -9 of a worker", lambda: os.kill(hosts.worker(1), signal.SIGKILL)),
            run.measure("host 1 disconnected", disconnect),
            run.measure("SIGTERM to host 1", lambda: preempt(1)),
            run.measure("SIGTERM to host 0", lambda: preempt(0)),
            run.measure("host 0 killed", kill),
        ]
        run.wait_for_end(hosts=2)
        return costs, run.dir.verdict()


def elastic_hosts(
    folder: Path, data: Path, config: PretrainConfig, epochs: int = 60
) -> tuple[list[Recovery], Verdict]:
    """Run with one or two hosts: one continues alone, and accepts the other again; see `fixed_hosts`."""
    with disturbed_run(folder, data, with_epochs(config, epochs), "1:2") as run:
        hosts = run.hosts

        def replace_host() -> None:
            hosts.kill(1)
            hosts.reconnect(1)
            hosts.start(1)

        costs = [
            run.measure("host 1 disconnected", lambda: hosts.disconnect(1)),
            run.measure("host 1 replaced", replace_host),
            run.measure("SIGTERM to host 1", lambda: hosts.preempt(1)),
        ]
        run.wait_for_end(hosts=1)
        return costs, run.dir.verdict()
