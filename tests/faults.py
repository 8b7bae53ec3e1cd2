"""A tiny run on two hosts, disturbed on purpose, and what each fault cost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.hosts import Hosts
from tests.tiny import tiny_config
from xkd.config import PretrainConfig
from xkd.config.overrides import to_dict
from xkd.errors import RunInterruptedError
from xkd.rundir import read_rows

INTERVAL = 20
"""Steps between two checkpoints."""
BETWEEN = 25
"""Steps trained before each fault."""
LONGEST = 120.0
"""Seconds after which something will not happen any more."""


@dataclass(frozen=True)
class Recovery:
    """What one fault cost."""

    fault: str
    seconds: float
    """From the fault to the first step that is trained after it."""
    reached: int
    """Steps trained when it came."""
    resumed: int
    """Steps that the run went on from."""
    hosts: int
    """How many trained on."""

    @property
    def lost(self) -> int:
        """Steps trained again."""
        return self.reached - self.resumed


def config(epochs: int) -> PretrainConfig:
    """The tiny run, whose processes miss each other after 15 seconds."""
    tiny = tiny_config()
    return replace(
        tiny,
        optim=replace(tiny.optim, epochs=epochs),
        run=replace(tiny.run, checkpoint_every=INTERVAL, peer_seconds=15),
    )


class Run:
    """A run on hosts, watched through what it writes."""

    def __init__(self, hosts: Hosts, out: Path) -> None:
        self.hosts, self.out = hosts, out

    def step(self) -> int:
        """Steps trained."""
        rows = read_rows(self.out / "metrics.jsonl") if (self.out / "metrics.jsonl").exists() else []
        return int(rows[-1]["step"]) if rows else 0

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something.

        Raises:
            TimeoutError: it did not happen; the hosts' logs say what did.
        """
        end = time.monotonic() + LONGEST
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited in vain; see {self.hosts.folder}/host*.log")
            time.sleep(0.05)

    def disturbed(self, fault: str, disturb: Callable[[], object]) -> Recovery:
        """Train for a while, disturb, and measure until training goes on."""
        start = self.step()
        self.until(lambda: self.step() >= start + BETWEEN)
        begun, before = self._starts(), time.time()
        reached = self.step()
        disturb()
        self.until(lambda: self._starts() > begun)
        self.until(lambda: _first_after(self.out, before, self._resumed()))
        row = _first_after(self.out, before, self._resumed())
        assert row
        processes = json.loads((self.out / "run.json").read_text())["processes"]
        # A fault that lets the workers finish their step finds one more done than was written by then.
        reached = max(reached, self._resumed())
        return Recovery(fault, row["time"] - before, reached, self._resumed(), processes)

    def _starts(self) -> int:
        return len(self._messages())

    def _resumed(self) -> int:
        return int(self._messages()[-1].rpartition(" ")[2])

    def _messages(self) -> list[str]:
        said = (self.hosts.folder / "host0.log").read_text(errors="replace").splitlines()
        return [line for line in said if "resumed after step" in line]


def _first_after(out: Path, when: float, resumed: int) -> dict[str, Any] | None:
    """The first row of a step that was trained after a moment."""
    rows = read_rows(out / "metrics.jsonl")
    return next((row for row in rows if row["time"] > when and row["step"] == resumed + 1), None)


@contextmanager
def running(folder: Path, data: Path, epochs: int, nodes: str) -> Iterator[Run]:
    """A run on two hosts."""
    folder.mkdir(parents=True)
    out = folder / "run"
    work = ["--settings", json.dumps(to_dict(config(epochs))), "--data", str(data), "--out", str(out)]
    with Hosts(2, folder, "xkd.train.pretrain", work, nodes) as hosts:
        for number in range(hosts.count):
            hosts.start(number)
        yield Run(hosts, out)


def fixed(folder: Path, data: Path, epochs: int = 30) -> tuple[list[Recovery], dict[str, Any]]:
    """Both hosts are needed; one that ends is replaced and the job begun anew, as Volcano does it.

    Returns:
        What each fault cost, and the verdict on the run.
    """
    with running(folder, data, epochs, "2:2") as run:
        hosts = run.hosts

        def cut() -> None:
            hosts.cut(1)
            run.until(lambda: any(hosts.agent(number).poll() is not None for number in range(2)))
            hosts.heal(1)
            hosts.restart()

        def preempt(number: int) -> None:
            assert hosts.preempt(number) == RunInterruptedError.exit_code
            hosts.restart()

        def kill() -> None:
            hosts.kill(0)
            hosts.restart()

        costs = [
            run.disturbed("kill -9 of a worker", lambda: os.kill(hosts.worker(1), signal.SIGKILL)),
            run.disturbed("the link of host 1 cut", cut),
            run.disturbed("SIGTERM to host 1", lambda: preempt(1)),
            run.disturbed("SIGTERM to host 0", lambda: preempt(0)),
            run.disturbed("host 0 gone at once", kill),
        ]
        run.until(lambda: (run.out / "verdict.json").exists())
        assert [hosts.agent(number).wait(timeout=60) for number in range(2)] == [0, 0]
        return costs, json.loads((run.out / "verdict.json").read_text())


def elastic(folder: Path, data: Path, epochs: int = 60) -> tuple[list[Recovery], dict[str, Any]]:
    """One host may go on alone, and lets the other in when it is back. Returns as `fixed` does."""
    with running(folder, data, epochs, "1:2") as run:
        hosts = run.hosts

        def back() -> None:
            hosts.kill(1)
            hosts.heal(1)
            hosts.start(1)

        costs = [
            run.disturbed("the link of host 1 cut", lambda: hosts.cut(1)),
            run.disturbed("host 1 is back", back),
            run.disturbed("SIGTERM to host 1", lambda: hosts.preempt(1)),
        ]
        run.until(lambda: (run.out / "verdict.json").exists())
        assert hosts.agent(0).wait(timeout=60) == 0
        return costs, json.loads((run.out / "verdict.json").read_text())
