"""Hosts on one machine: network namespaces that a switch joins, each running its part of a job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from xkd.launch.kubernetes.job import RENDEZVOUS_PORT

ENDED = 5.0
"""Seconds an agent may take to end when it is killed."""
GRACE = 10.0
"""Seconds it has when it is asked to."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def may_have_hosts() -> bool:
    """Whether this process may make network namespaces; root without capabilities may not."""
    name = f"xkd{os.getpid()}t"
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        ip("netns", "del", name)
        return True
    return False


class Hosts:
    """`count` hosts, 10.77.0.1 and on; host 0 is where the agents meet. Needs root."""

    def __init__(self, count: int, folder: Path, module: str, arguments: Sequence[str], nodes: str) -> None:
        self.count, self.folder, self.nodes = count, folder, nodes
        self.work = [module, *arguments]
        self.prefix = f"xkd{os.getpid()}"
        self.agents: list[subprocess.Popen[bytes] | None] = [None] * count
        self._made = ExitStack()

    def __enter__(self) -> Hosts:
        with self._made:  # also what was made of it before something failed
            self._make()
            self._made = self._made.pop_all()
        return self

    def _make(self) -> None:
        switch = f"{self.prefix}s"
        self._add(switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for number in range(self.count):
            host = self._host(number)
            self._add(host)
            self._made.callback(self.kill, number)
            ip("link", "add", "eth0", "netns", host, "type", "veth", "peer", f"p{number}", "netns", switch)
            ip("-n", switch, "link", "set", f"p{number}", "master", "bridge", "up")
            ip("-n", host, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("-n", host, "link", "set", "lo", "up")

    def _add(self, namespace: str) -> None:
        ip("netns", "add", namespace)
        self._made.callback(ip, "netns", "del", namespace)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._made.close()

    def start(self, number: int) -> None:
        """Start, or replace, a host's agent."""
        agent = [sys.executable, "-m", "xkd.launch.agent", "--job", "hosts", "--nodes", self.nodes]
        agent += ["--node", str(number), "--address", f"10.77.0.{number + 1}", "--restarts", "5"]
        agent += ["--rendezvous", f"10.77.0.1:{RENDEZVOUS_PORT}", *self.work]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
        with (self.folder / f"host{number}.log").open("ab") as log:
            self.agents[number] = subprocess.Popen(
                ["ip", "netns", "exec", self._host(number), *agent],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def worker(self, number: int) -> int:
        """The process that trains on a host."""
        agent = self.agent(number)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        return next(int(pid) for pid in children if b"pretrain" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def agent(self, number: int) -> subprocess.Popen[bytes]:
        agent = self.agents[number]
        assert agent is not None
        return agent

    def cut(self, number: int) -> None:
        """Take a host off the network; nobody is told."""
        ip("-n", f"{self.prefix}s", "link", "set", f"p{number}", "down")

    def heal(self, number: int) -> None:
        ip("-n", f"{self.prefix}s", "link", "set", f"p{number}", "up")

    def preempt(self, number: int) -> int:
        """Ask a host to go, as Kubernetes evicts a pod; its exit code."""
        self.agent(number).send_signal(signal.SIGTERM)
        return self.agent(number).wait(timeout=60)

    def kill(self, number: int) -> None:
        """End all of a host's processes at once, as if the machine were gone."""
        agent = self.agents[number]
        if agent is not None:
            pids = subprocess.run(
                ["ip", "netns", "pids", self._host(number)], capture_output=True, text=True, check=True
            )
            for pid in map(int, pids.stdout.split()):
                os.kill(pid, signal.SIGKILL)
            agent.wait(timeout=ENDED)
        self.agents[number] = None

    def restart(self) -> None:
        """Begin every host's part anew, as a Volcano Job does when one of its pods failed or was evicted."""
        for number in range(self.count):
            if self.agents[number] and self.agent(number).poll() is None:
                self.agent(number).send_signal(signal.SIGTERM)
        for number in range(self.count):
            with suppress(subprocess.TimeoutExpired):
                if self.agents[number]:
                    self.agent(number).wait(timeout=GRACE)
            self.kill(number)
        for number in range(self.count):
            self.start(number)

    def _host(self, number: int) -> str:
        return f"{self.prefix}h{number}"
