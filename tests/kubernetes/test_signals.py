"""Launchers that are interrupted, terminated or detached, as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.launching import HEALTHY, ROOT, Command, complete, started
from tests.waiting import until
from xkd.launch.kubernetes.config import ClusterConfig
from xkd.rundir import Verdict

pytestmark = pytest.mark.system
Start = Callable[..., Command]


def test_a_job_continues_after_its_launcher_is_terminated(cluster: Cluster, command: Start) -> None:
    for run_id in ("", "r1"):
        launcher = command(run_id)
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.end() in (143, -signal.SIGTERM), launcher.said
        assert "Running, 1 attempt(s)" in launcher.said
        assert (
            f"job {cluster.name}: continues; rerun the command to attach to it, or cancel it: "
            f"xkd launch --cancel {cluster.name} --cluster-set namespace={cluster.namespace}"
        ) in launcher.said
    assert cluster.submitted == 1
    complete(cluster)


@pytest.mark.parametrize("spec", [{"activeDeadlineSeconds": 0}, {"shutdown": "Terminate"}])
def test_terminating_a_pipeline_run_cancels_its_job(
    cluster: Cluster, command: Start, spec: dict[str, Any]
) -> None:
    launcher = command("r1")
    cluster.terminate("r1", **spec)
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.end() in (143, -signal.SIGTERM), launcher.said
    assert launcher.said.endswith(": cancelled\n")
    until(lambda: not cluster.jobs)  # its pods end first


def test_ctrl_c_leaves_a_job_that_the_launcher_only_attached_to(cluster: Cluster, command: Start) -> None:
    first = started(cluster, config=ClusterConfig(nodes=2))
    second = command()
    second.process.send_signal(signal.SIGINT)
    assert second.end() in (130, -signal.SIGINT), second.said
    assert f"job {cluster.name}: continues; " in second.said
    complete(cluster)
    assert first.end() == Verdict(**HEALTHY)


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_at_a_terminal_ctrl_c_asks(cluster: Cluster, command: Start, answer: str, left: int) -> None:
    launcher = command(terminal=True)
    launcher.process.send_signal(signal.SIGINT)
    launcher.wait(f"xkd: cancel job {cluster.name} too? [y/N] ")
    os.write(launcher.terminal, answer.encode())
    assert launcher.end() in (130, -signal.SIGINT), launcher.said
    until(lambda: len(cluster.jobs) == left)
    if left:
        complete(cluster)


def test_the_command_line_starts_a_job_without_following_it_and_cancels_it(cluster: Cluster) -> None:
    def xkd(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from xkd.cli import main; main()", "launch", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    work = ("--preset", "toy", "--data", "runs/data", "--out", "runs/mine")
    assert xkd(*work, "--detach").returncode == 0
    name = cluster.name
    again = xkd(*work, "--detach")
    assert again.stderr == f"xkd: job {name} exists (Pending); attaching\n"
    assert xkd("--cancel", name).returncode == 0
    until(lambda: not cluster.jobs)  # its pods end first
    missing = xkd("--cancel", name)
    assert missing.returncode == 2
    assert missing.stderr == (
        f"xkd: no job {name} in namespace {cluster.namespace}; "
        f"list them: kubectl get vcjob -n {cluster.namespace}\n"
    )
    assert xkd().stderr == "xkd: launch needs --data and --out, or --cancel with the name of a job\n"
