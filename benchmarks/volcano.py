"""Volcano's controller and kubelets in one thread: the pods of a job run as processes of `Hosts`."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.hosts import Hosts, address
from tests.kubernetes.server import FakeCluster
from xkd.launch.kubernetes import status
from xkd.launch.termination import ERROR_FILE

_VARIABLE = re.compile(r"\$\$|\$\((\w+)\)")
_PERIOD = 0.1
"""Seconds between two looks at the jobs and the processes."""


class Volcano:
    """Follows the policies of the server's only job. One pod of it runs on each of the hosts.

    Use it as a context manager: at the end all processes are ended.
    """

    def __init__(self, cluster: FakeCluster, hosts: Hosts) -> None:
        self.cluster, self.hosts = cluster, hosts
        self._gives_up = False
        """Whether the next failure ends the job."""
        self._job: dict[str, Any] | None = None
        """The job whose pods run, or ran until it ended."""
        self._logged = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Volcano:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.hosts.stop()

    def lose_all_pods(self) -> None:
        """Have all pods fail at once, after which Volcano may end a job with restarts left (issue 3967)."""
        self._gives_up = True
        for number in range(self.hosts.count):
            os.kill(self.hosts.agent(number).pid, signal.SIGKILL)

    def _follow(self) -> None:
        while not self._stopped.wait(_PERIOD):
            job = next(iter(self.cluster.jobs.values()), None)
            if job is not self._job:  # deleted, or submitted again
                self.hosts.stop()
                self._job = job
                if job:
                    self._start(job)
            elif job and not status.has_ended(job):
                self._show_log()
                self._check_pods(job)

    def _start(self, job: dict[str, Any]) -> None:
        """Start a pod on each host."""
        self.cluster.start()
        for number, task in enumerate(job["spec"]["tasks"]):
            (container,) = task["template"]["spec"]["containers"]
            variables = self._variables(number, container)
            settings = [f"{name}={value}" for name, value in variables.items()]
            words = [_expand(word, variables) for word in container["command"]]
            self.hosts.commands[number] = ["env", *settings, *words]
            self._termination_file(number).write_text("")
            self.hosts.start(number)

    def _variables(self, number: int, container: dict[str, Any]) -> dict[str, str]:
        """Return the environment of a pod, with the kubelet's termination file and what Volcano sets."""
        listed = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        hosts = {f"VC_TRAIN_{each}_HOSTS": address(each) for each in range(self.hosts.count)}
        of_kubelet = {"NODE_NAME": f"host{number}", ERROR_FILE: str(self._termination_file(number))}
        return listed | hosts | of_kubelet

    def _termination_file(self, number: int) -> Path:
        return self.hosts.folder / f"termination{number}"

    def _check_pods(self, job: dict[str, Any]) -> None:
        """Report the pods that ended, and do what the job's policies say."""
        codes = {
            number: code
            for number in range(self.hosts.count)
            if (code := self._exit_code(number)) is not None
        }
        for number, code in codes.items():
            self.cluster.end_pod(number, code, self._termination_file(number).read_text())
        if not codes:
            return
        actions = {policy.get("exitCode"): policy["action"] for policy in job["spec"]["policies"]}
        (action, *_) = [*filter(None, map(actions.get, codes.values())), "RestartJob"]
        restarts = job["status"].get("retryCount", 0) + 1
        if 0 in codes.values():
            self._end(job, "Completed")
        elif action != "RestartJob":
            self._end(job, "Terminated")
        elif self._gives_up or restarts >= job["spec"]["maxRetry"]:
            self._gives_up = False
            self._end(job, "Failed")
        else:
            self.cluster.restart(restarts)
            self.hosts.stop()
            if job in self.cluster.jobs.values():
                self._start(job)

    def _exit_code(self, number: int) -> int | None:
        """Return the exit code of a pod as Kubernetes reports it; None while it runs."""
        agent = self.hosts.agents[number]
        code = 137 if agent is None else agent.poll()  # None: the host was lost
        return 128 - code if code is not None and code < 0 else code

    def _end(self, job: dict[str, Any], phase: str) -> None:
        """End a job and those of its pods that still run."""
        self.hosts.stop()
        self.cluster.phase(phase, job["status"].get("retryCount", 0))

    def _show_log(self) -> None:
        """Give the server the first pod's new lines."""
        with (self.hosts.folder / "host0.log").open("rb") as file:
            file.seek(self._logged)
            *lines, rest = file.read().split(b"\n")
            self._logged = file.tell() - len(rest)
        for line in lines:
            self.cluster.say(line.decode(errors="replace"))


def _expand(word: str, variables: Mapping[str, str]) -> str:
    """Expand ``$$`` and ``$(NAME)`` as the kubelet does."""
    return _VARIABLE.sub(lambda found: variables.get(found[1], found[0]) if found[1] else "$", word)
