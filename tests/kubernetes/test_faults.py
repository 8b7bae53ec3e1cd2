"""Requests to the API that fail, as only a fake server makes them fail at a given moment."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from tests.kubernetes.launching import (
    CONFIG,
    HEALTHY,
    QUICK,
    Command,
    Launch,
    Shown,
    complete,
    report,
    started,
)
from tests.kubernetes.server import FakeCluster, refused
from tests.tiny import tiny_config
from tests.waiting import until
from xkd.errors import UserError
from xkd.launch.kubernetes import client, submit
from xkd.launch.kubernetes.client import ApiUnavailableError
from xkd.launch.kubernetes.submit import LaunchError, release
from xkd.launch.launcher import training_job
from xkd.rundir import Verdict


@pytest.fixture
def cluster(fake: FakeCluster) -> FakeCluster:
    return fake


def hang_up(handler: BaseHTTPRequestHandler) -> bool:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


@pytest.mark.parametrize("moment", ["before", "while"])
def test_transient_server_errors_are_retried(cluster: FakeCluster, moment: str) -> None:
    def error(code: int) -> Callable[[BaseHTTPRequestHandler], bool]:
        def spoil(handler: BaseHTTPRequestHandler) -> bool:
            handler.reply(*refused(code, "etcdserver: request timed out"))  # type: ignore[attr-defined]
            return True

        return spoil

    faults = [error(500), hang_up, error(503), error(429)]
    if moment == "before":
        cluster.faults = faults
    launcher = started(cluster)
    if moment == "while":
        cluster.faults = faults
        until(lambda: not cluster.faults)
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
    assert cluster.submitted == 1


def test_a_lost_response_does_not_submit_a_second_job(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first validation of a job loads the schemas, for seconds on a busy machine.
    monkeypatch.setattr(client, "POLL_POLICY", replace(QUICK, patience=60.0))

    def swallow(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command != "POST":
            return False
        handler._post()  # type: ignore[attr-defined]
        return hang_up(handler)

    cluster.faults = [swallow]
    launcher = started(cluster)
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
    assert cluster.submitted == 1


def test_a_job_that_another_launcher_submits_meanwhile_is_attached_to(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def not_yet(handler: BaseHTTPRequestHandler) -> bool:
        handler.reply(*refused(404, "not found"))  # type: ignore[attr-defined]
        return True

    submit.submit(training_job(tiny_config(), Path("runs/data"), Path("runs/mine"), CONFIG, "r1"))
    cluster.faults = [not_yet]
    launcher = Launch(run_id="r2")
    until(lambda: cluster.job["metadata"]["labels"]["pipeline/runid"] == "r2" or launcher.ended)
    assert "exists (Pending); attaching" in capsys.readouterr().err
    cluster.start()
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
    assert cluster.submitted == 1


def test_a_request_without_a_response_times_out(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_TIMEOUT", (1, 0.3))

    def hang(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command != "GET" or "log" in handler.path:
            return False
        time.sleep(1)
        return True

    launcher = started(cluster)
    cluster.faults = [hang, hang]
    until(lambda: not cluster.faults)
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)


def test_unknown_phases_are_taken_as_transient(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = started(cluster)
    cluster.phase("Reticulating")
    Shown(capsys).wait("Reticulating")
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)


def rejecting(code: int) -> Callable[[BaseHTTPRequestHandler], bool]:
    def reject(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command != "GET" or "/jobs/" not in handler.path:
            return False
        handler.reply(*refused(code, "not you"))  # type: ignore[attr-defined]
        return True

    return reject


def test_a_followed_job_is_followed_through_a_change_of_credentials(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = started(cluster)
    cluster.faults = [rejecting(code) for code in (401, 403, 401)]
    until(lambda: not cluster.faults)
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
    assert "a request to the Kubernetes API failed (not you); retrying" in capsys.readouterr().err


def test_credentials_that_stay_rejected_leave_the_job_running(cluster: FakeCluster) -> None:
    launcher = started(cluster)
    cluster.faults = [rejecting(401) for _ in range(1000)]
    error = launcher.end()
    assert isinstance(error, ApiUnavailableError)
    assert str(error) == (
        "requests to the Kubernetes API failed for 2 s (not you); the job continues, "
        "rerun the command to attach to it"
    )
    complete(cluster)


def test_a_failed_cancellation_is_reported_with_a_command(cluster: FakeCluster) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command != "DELETE":
            return False
        handler.reply(*refused(403, "forbidden by policy"))  # type: ignore[attr-defined]
        return True

    cluster.faults = [refuse]
    launcher = started(cluster, config=replace(CONFIG, run_seconds=1))
    error = launcher.end()
    assert isinstance(error, LaunchError)
    assert "longer than run_seconds; not cancelled (permission denied by the cluster: " in str(error)
    assert str(error).endswith(f": kubectl delete vcjob {cluster.name} -n research")
    complete(cluster)


def test_the_log_of_a_pending_pod_is_requested_at_growing_intervals(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "POLL_POLICY", replace(QUICK, longest=3))
    launcher = Launch()
    until(lambda: cluster.jobs)
    time.sleep(2)
    assert sum(request.endswith("/log") for request in cluster.requests) < 8
    cluster.delete_job(cluster.name)
    launcher.end()


def test_a_job_that_cannot_be_submitted_again_is_one_line(cluster: FakeCluster) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command != "POST":
            return False
        handler.reply(*refused(422, "over the quota"))  # type: ignore[attr-defined]
        return True

    launcher = started(cluster)
    cluster.faults = [refuse]
    cluster.end_pod(0, 1, report("NCCL error", 1))
    cluster.phase("Failed", 1)
    error = launcher.end()
    assert str(error) == "the cluster rejected the job: over the quota"


DENIED = 'jobs.batch.volcano.sh is forbidden: User "{}" cannot create resource "jobs"'


@pytest.mark.parametrize(
    ("code", "reason", "advice"),
    [
        (403, "no", "permission denied by the cluster: {}; {} your account"),
        (403, DENIED.format("ann@x.org"), "permission denied by the cluster: {}; {} user ann@x.org"),
        (
            403,
            DENIED.format("system:serviceaccount:team:default-editor"),
            "permission denied by the cluster: {}; {} service account default-editor of namespace team",
        ),
        (422, "forbidden by policy", "the cluster rejected the job: {}"),
        (404, "not found", "the cluster has no Volcano jobs ({}); install Volcano"),
    ],
)
def test_a_rejected_job_is_one_line(cluster: FakeCluster, code: int, reason: str, advice: str) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command != "POST":
            return False
        handler.reply(*refused(code, reason))  # type: ignore[attr-defined]
        return True

    cluster.faults = [refuse]
    bind = "apply k8s/base to namespace research, and bind its role xkd-launcher to"
    assert str(Launch().end()) == advice.format(reason, bind)


def test_a_missing_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    error = Launch().end()
    assert isinstance(error, UserError)
    assert str(error).startswith("no Kubernetes cluster: ")
    assert "\n" not in str(error)


def test_a_watch_resumes_where_its_connection_broke(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "POLL_POLICY", replace(QUICK, longest=1.0))
    monkeypatch.setattr(client, "_WATCH_SECONDS", 1)

    def break_off(handler: BaseHTTPRequestHandler) -> bool:
        return "watch=True" in handler.path and hang_up(handler)

    launcher, shown = started(cluster), Shown(capsys)
    shown.wait("Running\n")
    cluster.faults = [break_off]
    until(lambda: not cluster.faults)
    cluster.end_pod(1, 75, report("Interrupted: saved at step 9", 75))
    cluster.restart()  # before the next watch
    shown.wait("Interrupted: saved at step 9")
    cluster.start()
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)


def test_a_watch_starts_again_when_the_server_has_forgotten_its_version(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "POLL_POLICY", replace(QUICK, longest=120.0))
    monkeypatch.setattr(client, "_WATCH_SECONDS", 1)
    versions: list[str] = []

    def forget(handler: BaseHTTPRequestHandler) -> bool:
        if "watch=True" not in handler.path:
            return False
        (version,) = parse_qs(handler.path).get("resourceVersion", [""])
        versions.append(version)
        if len(versions) == 1:
            handler.reply(*refused(410, "too old resource version: 1 (99)"))  # type: ignore[attr-defined]
        return len(versions) == 1

    launcher, shown = started(cluster), Shown(capsys)
    shown.wait("Running\n")
    cluster.faults = [forget, forget]
    until(lambda: len(versions) >= 2)  # at once, not after the longest pause
    assert versions[0]
    assert versions[1] == ""
    cluster.faults = []
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)


def test_log_lines_are_shown_once_through_broken_connections(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.log_breaks_every = 2
    launcher, shown = started(cluster), Shown(capsys)
    for number in range(9):
        cluster.say(f"line {number}")
        time.sleep(0.03)
    shown.wait("line 8")
    cluster.restart()  # a new pod of the same name
    shown.wait("Restarting")
    cluster.start()
    cluster.say("line 9, of the second pod")
    complete(cluster)
    launcher.end()
    lines = [line for line in shown.read().splitlines() if line.startswith("line ")]
    assert lines == [*(f"line {number}" for number in range(9)), "line 9, of the second pod"]


@pytest.mark.system
def test_ctrl_c_cancels_a_job_that_the_launcher_submitted(
    cluster: FakeCluster, command: Callable[..., Command]
) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> bool:
        """Fail the first deletion, so that there is time for another signal."""
        if handler.command != "DELETE":
            return False
        handler.reply(*refused(500, "etcdserver: request timed out"))  # type: ignore[attr-defined]
        return True

    launcher, name = command(), cluster.name
    cluster.faults = [slow]
    launcher.process.send_signal(signal.SIGINT)
    until(lambda: not cluster.faults)
    for more in (signal.SIGTERM, signal.SIGINT):  # while it cancels
        launcher.process.send_signal(more)
    assert launcher.end() in (130, -signal.SIGINT), launcher.said
    assert f"job {name}: cancelled\n" in launcher.said
    assert cluster.jobs == {}


def test_release_without_permission_to_read_workflows_leaves_the_job(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> bool:
        if "workflows" not in handler.path:
            return False
        handler.reply(*refused(403, "forbidden by policy"))  # type: ignore[attr-defined]
        return True

    launcher = started(cluster, run_id="r1")
    cluster.terminate("r1")
    cluster.faults = [refuse]
    assert release("r1") == []
    assert "whether pipeline run r1 was terminated is not known: permission denied" in capsys.readouterr().err
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
