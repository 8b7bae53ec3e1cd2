"""Hosts on one machine: network namespaces joined by a switch, each with an agent of a job."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

KILL_SECONDS = 5.0
"""Time for a killed agent to end."""
GRACE_SECONDS = 10.0
"""Time for an agent to end after SIGTERM."""


def ip(*words: str) -> None:
    """Run the command ``ip``."""
    subprocess.run(["ip", *words], check=True)


def can_create_hosts() -> bool:
    """Return whether this process may create network namespaces; root without capabilities may not."""
    name = f"xkd{os.getpid()}t"
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        ip("netns", "del", name)
        return True
    return False


def address(number: int) -> str:
    """Return the address of a host."""
    return f"10.77.0.{number + 1}"


class Hosts:
    """Hosts with the addresses `address`. Needs root.

    Args:
        count: number of hosts.
        folder: for the logs, host0.log and so on.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder = count, folder
        self.commands: list[Sequence[str]] = [[]] * count
        """The command of each host's agent."""
        self.prefix = f"xkd{os.getpid()}"
        self.agents: list[subprocess.Popen[bytes] | None] = [None] * count
        self._cleanup = ExitStack()

    def __enter__(self) -> Hosts:
        with self._cleanup:  # removes what was created before a failure
            self._create()
            self._cleanup = self._cleanup.pop_all()
        return self

    def _create(self) -> None:
        switch = f"{self.prefix}s"
        self._add(switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for number in range(self.count):
            host = self._host(number)
            self._add(host)
            self._cleanup.callback(self.kill, number)
            ip("link", "add", "eth0", "netns", host, "type", "veth", "peer", f"p{number}", "netns", switch)
            ip("-n", switch, "link", "set", f"p{number}", "master", "bridge", "up")
            ip("-n", host, "addr", "add", f"{address(number)}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("-n", host, "link", "set", "lo", "up")

    def _add(self, namespace: str) -> None:
        ip("netns", "add", namespace)
        self._cleanup.callback(ip, "netns", "del", namespace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def start(self, number: int) -> None:
        """Start or replace a host's agent."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
        with (self.folder / f"host{number}.log").open("ab") as log:
            self.agents[number] = subprocess.Popen(
                ["ip", "netns", "exec", self._host(number), *self.commands[number]],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def worker(self, number: int) -> int:
        """Return the ID of the process that trains on a host."""
        agent = self.agent(number)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        return next(int(pid) for pid in children if b"pretrain" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def agent(self, number: int) -> subprocess.Popen[bytes]:
        """Return a host's running or ended agent."""
        agent = self.agents[number]
        assert agent is not None
        return agent

    def disconnect(self, number: int) -> None:
        """Take a host off the network; no connection is closed."""
        ip("-n", f"{self.prefix}s", "link", "set", f"p{number}", "down")

    def reconnect(self, number: int) -> None:
        """Put a host back on the network."""
        ip("-n", f"{self.prefix}s", "link", "set", f"p{number}", "up")

    def preempt(self, number: int) -> int:
        """End a host as Kubernetes evicts a pod, and return its agent's exit code."""
        self.agent(number).send_signal(signal.SIGTERM)
        return self.agent(number).wait(timeout=60)

    def processes(self, number: int) -> list[int]:
        """Return the IDs of a host's processes."""
        command = ["ip", "netns", "pids", self._host(number)]
        pids = subprocess.run(command, capture_output=True, text=True, check=True)
        return [int(pid) for pid in pids.stdout.split()]

    def kill(self, number: int) -> None:
        """Kill all of a host's processes, as if the machine had failed."""
        agent = self.agents[number]
        if agent is not None:
            for pid in self.processes(number):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            agent.wait(timeout=KILL_SECONDS)
        self.agents[number] = None

    def restart(self) -> None:
        """Restart all agents, as a Volcano Job does after one of its pods failed or was evicted."""
        self.stop()
        for number in range(self.count):
            self.start(number)

    def stop(self) -> None:
        """End all agents as Kubernetes deletes pods: SIGTERM, and SIGKILL after the grace period."""
        for number in range(self.count):
            if self.agents[number] and self.agent(number).poll() is None:
                self.agent(number).send_signal(signal.SIGTERM)
        for number in range(self.count):
            with suppress(subprocess.TimeoutExpired):
                if self.agents[number]:
                    self.agent(number).wait(timeout=GRACE_SECONDS)
            self.kill(number)

    def _host(self, number: int) -> str:
        return f"{self.prefix}h{number}"
