"""Launching on a cluster: the real launcher and Kubernetes client against a fake API server."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.server import Cluster, refused
from tests.tiny import tiny_config
from tests.waiting import until
from xkd.errors import CollapsedError, TrainingError, UserError, XkdError
from xkd.launch.kubernetes import client, submit
from xkd.launch.kubernetes.client import ApiUnavailableError, PollPolicy
from xkd.launch.kubernetes.config import ClusterConfig
from xkd.launch.kubernetes.submit import LaunchError, release
from xkd.launch.launcher import describe, launch, training_job
from xkd.rundir import Verdict

QUICK = PollPolicy(first=0.05, longest=0.1, patience=2.0)
HEALTHY: dict[str, Any] = {"verdict": "healthy", "reason": "it learns", "step": 28}
COLLAPSED: dict[str, Any] = {"verdict": "one_hot", "reason": "KD is 0", "step": 12}
ROOT = Path(__file__).resolve().parents[2]
CONFIG = ClusterConfig(nodes=2, resources={"limits": {"nvidia.com/gpu": "2", "cpu": "64"}})


def report(message: str, code: int, **extra: Any) -> str:
    """A termination message as xkd.launch.agent writes it."""
    return json.dumps({"message": {"message": message, "errorCode": code, "extraInfo": extra}})


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster of the kubeconfig; no job may be left on it."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(client, "POLL_POLICY", QUICK)
    with Cluster() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        yield cluster
        assert cluster.left() == []


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


def hang_up(handler: BaseHTTPRequestHandler) -> bool:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


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
    cluster.phase(phase, 4 if phase == "Failed" else 0)


def test_a_job_is_submitted_and_its_verdict_is_returned(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = started(cluster)
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
    assert "POST /apis/batch.volcano.sh/v1alpha1/namespaces/research/jobs" in cluster.requests
    said = capsys.readouterr().err
    assert f"xkd: job {cluster.name} submitted in namespace research" in said
    assert re.search(rf"xkd: job {cluster.name}: Completed, 1 attempt\(s\), 0 min \d+ s running", said)


def test_a_running_job_is_attached_to(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    first = started(cluster)
    second = Launch()
    until(lambda: "exists (Running); attaching" in capsys.readouterr().err)
    complete(cluster)
    assert first.end() == second.end() == Verdict(**HEALTHY)
    assert cluster.submitted == 1


def test_a_completed_job_is_not_run_again(cluster: Cluster) -> None:
    launcher = started(cluster)
    complete(cluster)
    launcher.end()
    assert Launch().end() == Verdict(**HEALTHY)
    assert cluster.submitted == 1


@pytest.mark.parametrize("left", [None, '{"message": {"message": "finished", "extraInfo": {"verd'])
def test_a_completed_job_without_a_termination_message_has_the_verdict_of_its_run_directory(
    cluster: Cluster, tmp_path: Path, left: str | None
) -> None:
    launcher = started(cluster, out=tmp_path)
    (tmp_path / "verdict.json").write_text(json.dumps(HEALTHY))
    if left:
        cluster.end_pod(0, 0, left)
    else:
        cluster.pods.clear()
    cluster.phase("Completed")
    assert launcher.end() == Verdict(**HEALTHY)


def test_a_completed_job_whose_verdict_is_out_of_reach_is_not_an_error(cluster: Cluster) -> None:
    launcher = started(cluster)
    cluster.end_pod(1, 69, report("lost the other hosts", 69))
    cluster.end_pod(0, 0)
    cluster.phase("Completed")
    assert launcher.end() is None
    reason = "the job completed; its verdict is in runs/mine/verdict.json on the cluster's volume"
    assert describe(None, launcher.out) == ("unknown", reason)


def test_different_work_has_a_different_job_name(cluster: Cluster) -> None:
    names = {
        training_job(tiny_config(), Path("data"), Path(out), CONFIG, run_id).name
        for out, run_id in (("a", ""), ("b", ""), ("a", "r1"), ("a", "r2"))
    }
    assert len(names) == 4
    assert training_job(tiny_config(), Path("data"), Path("a"), CONFIG).name in names


@pytest.mark.parametrize("moment", ["before", "while"])
def test_transient_server_errors_are_retried(cluster: Cluster, moment: str) -> None:
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


def test_a_lost_response_does_not_submit_a_second_job(cluster: Cluster) -> None:
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


def test_a_request_without_a_response_times_out(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_unreachable_api_is_an_error_and_the_job_continues(cluster: Cluster) -> None:
    launcher = started(cluster)
    cluster.away = "no leader"
    error = launcher.end()
    assert isinstance(error, ApiUnavailableError)
    assert error.exit_code == 75
    assert str(error).startswith("Kubernetes API unreachable for 2 s (no leader); the job continues")
    cluster.away = ""
    complete(cluster)


def test_unknown_phases_are_taken_as_transient(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = started(cluster)
    cluster.phase("Reticulating")
    Shown(capsys).wait("Reticulating")
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)


def test_a_preempted_job_is_followed_through_its_restart(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher, shown = started(cluster), Shown(capsys)
    shown.wait("Running")
    why = "Interrupted: saved at step 9 of 28; rerun to resume"
    cluster.end_pod(1, 75, report(why, 75), pod_reason="Preempting")
    cluster.restart()
    shown.wait("Restarting, restart 1")
    shown.wait(f"pod {cluster.name}-train-1-0: Preempting: {why}")
    cluster.phase("Pending", 1)
    shown.wait("Pending, restart 1")
    cluster.start()
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
    assert "Completed, 2 attempt(s)" in shown.read()


def test_expired_credentials_leave_the_job_running(cluster: Cluster) -> None:
    def expire(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command != "GET" or "/jobs/" not in handler.path:
            return False
        handler.reply(*refused(401, "Unauthorized"))  # type: ignore[attr-defined]
        return True

    launcher = started(cluster)
    cluster.faults = [expire]
    error = launcher.end()
    assert isinstance(error, ApiUnavailableError)
    assert str(error) == (
        "the cluster rejected your credentials: Unauthorized; log in again; "
        f"job {cluster.name} continues, rerun the command to attach to it"
    )
    complete(cluster)


def test_two_jobs_cannot_write_to_one_run_directory(cluster: Cluster) -> None:
    first = started(cluster, run_id="r1")
    name = cluster.name
    for same in (Path("runs/mine"), Path("/workspace/runs/mine"), Path("runs/other/../mine")):
        error = Launch(run_id="r2", out=same).end()
        assert type(error) is UserError
        assert str(error).startswith(f"job {name} (Running) already writes to /workspace/runs/mine; ")
        assert str(error).endswith(f"kubectl delete vcjob {name} -n research")
    assert cluster.submitted == 1
    complete(cluster)
    first.end()
    second = Launch(run_id="r2")  # the first one has ended
    until(lambda: cluster.submitted == 2)
    del cluster.jobs[name]
    cluster.start()
    complete(cluster)
    assert second.end() == Verdict(**HEALTHY)


def test_a_job_waits_until_an_earlier_one_of_its_directory_is_deleted(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stuck = True
    first = started(cluster, run_id="r1")
    name = cluster.name
    release("r1")
    second = Launch(run_id="r2")
    until(lambda: f"waiting until earlier job {name} is deleted" in capsys.readouterr().err)
    cluster.stuck = False
    release("r1")
    first.end()
    until(lambda: cluster.submitted == 2)
    cluster.start()
    complete(cluster)
    assert second.end() == Verdict(**HEALTHY)


def test_waiting_for_a_deletion_has_a_timeout(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_DELETION_SECONDS", 0.5)
    config = replace(CONFIG, grace_seconds=1)
    launcher = started(cluster, config=config)
    fail(cluster, 1, report("trouble", 1))
    launcher.end()
    cluster.stuck = True
    error = Launch(config=config).end()
    assert isinstance(error, LaunchError)
    assert "was not deleted within 0 min 1 s; a pod on a lost node stays until the node or" in str(error)
    assert cluster.submitted == 1


def test_a_failed_cancellation_is_reported_with_a_command(cluster: Cluster) -> None:
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


@pytest.mark.parametrize("scheduled", [True, False])
def test_the_reason_a_pod_waits_for_is_logged_once(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], scheduled: bool
) -> None:
    launcher, shown = Launch(), Shown(capsys)
    until(lambda: cluster.jobs)
    cluster.phase("Pending")
    for number in range(5):
        cluster.wait_pod("ImagePullBackOff", f"no image\nin sight, try {number}", scheduled)
        shown.wait("try 0")
        time.sleep(0.2)  # about two polls, of which none may log it again
    cluster.start()
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
    said = [line for line in shown.read().splitlines() if " waits: " in line]
    assert said == [f"xkd: pod {cluster.name}-train-0-0 waits: ImagePullBackOff: no image in sight, try 0"]


def test_the_log_of_a_pending_pod_is_requested_at_growing_intervals(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "POLL_POLICY", replace(QUICK, longest=3))
    launcher = Launch()
    until(lambda: cluster.jobs)
    time.sleep(2)
    assert sum(request.endswith("/log") for request in cluster.requests) < 8
    cluster.jobs.clear()
    launcher.end()


def test_the_summary_has_the_progress_of_the_run(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"steps": 28}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 9}\n')
    (tmp_path / "checkpoints").mkdir()
    for step in (4, 8):
        (tmp_path / "checkpoints" / f"step_0000000{step}.pt").touch()
    launcher = started(cluster, out=tmp_path)
    fail(cluster, 1, report("trouble", 1))
    launcher.end()
    said = capsys.readouterr().err.splitlines()[-1]
    assert "Failed, 5 attempt(s), " in said
    assert said.endswith("waiting for nodes; step 9 of 28, last checkpoint: step_00000008.pt")


def test_a_deleted_job_is_an_error(cluster: Cluster) -> None:
    launcher = started(cluster)
    cluster.jobs.clear()
    error = launcher.end()
    assert isinstance(error, LaunchError)
    assert "no longer exists: it was deleted, or its time to live expired" in str(error)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((2, report("optim.lr must be positive", 2)), {}, UserError, r"^optim\.lr must be positive$"),
        (
            (1, report("worker 3 failed with exit code 1", 1)),
            {},
            TrainingError,
            "after 4 restart.*worker 3 failed with exit code 1",
        ),
        ((137, ""), {"reason": "OOMKilled"}, TrainingError, "train-1-0: ended with out of memory"),
        (
            (69, report("lost the other hosts", 69)),
            {},
            TrainingError,
            "lost the other hosts; rerun the command to resume",
        ),
        ((143, "", "", "Evicted"), {}, TrainingError, "Evicted: ended with exit code 143"),
        ((1, "not JSON"), {}, TrainingError, "ended with exit code 1"),
    ],
)
def test_a_failure_is_reported_by_the_most_informative_pod(
    cluster: Cluster, arguments: Any, options: Any, kind: type[XkdError], message: str
) -> None:
    launcher = started(cluster)
    fail(cluster, *arguments, **options)
    error = launcher.end()
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error


def test_a_run_that_ended_by_collapse_exits_as_pretrain_does(cluster: Cluster) -> None:
    launcher = started(cluster)
    fail(cluster, 76, report("the run ended as one_hot", 76, verdict=COLLAPSED), phase="Terminated")
    error = launcher.end()
    assert isinstance(error, CollapsedError)
    assert (error.exit_code, error.verdict) == (76, COLLAPSED)


def test_a_final_failure_is_not_retried_in_the_same_pipeline_run(cluster: Cluster) -> None:
    launcher = started(cluster, run_id="r1")
    fail(cluster, 2, report("no manifest.csv in runs/data", 2), phase="Terminated")
    assert isinstance(launcher.end(), UserError)
    error = Launch(run_id="r1").end()
    assert str(error) == "no manifest.csv in runs/data"
    assert cluster.submitted == 1


def test_restarts_are_not_multiplied_by_the_retries_of_a_pipelines_task(cluster: Cluster) -> None:
    launcher = started(cluster, run_id="r1")
    fail(cluster, 1, report("trouble", 1))
    first, again = launcher.end(), Launch(run_id="r1").end()
    assert str(first) == str(again)
    assert "trouble; another run of the pipeline resumes from the last checkpoint" in str(again)
    assert cluster.submitted == 1


@pytest.mark.parametrize(
    ("code", "run_id", "phase"), [(75, "r1", "Aborted"), (1, "", "Failed"), (2, "", "Terminated")]
)
def test_other_failed_jobs_are_restarted_on_rerun(
    cluster: Cluster, code: int, run_id: str, phase: str
) -> None:
    launcher = started(cluster, run_id=run_id)
    fail(cluster, code, report("trouble", code), phase=phase)
    launcher.end()
    again = Launch(run_id=run_id)
    until(lambda: cluster.submitted == 2)
    cluster.start()
    complete(cluster)
    assert again.end() == Verdict(**HEALTHY)


@pytest.mark.parametrize(
    ("phase", "limit", "message"),
    [
        (
            "Pending",
            {"queue_seconds": 1},
            r"waited 0 min \d s for nodes, longer than queue_seconds; cancelled",
        ),
        ("Running", {"run_seconds": 1}, r"ran for 0 min \d s, longer than run_seconds; cancelled"),
    ],
)
def test_a_job_past_its_deadline_is_cancelled(
    cluster: Cluster, phase: str, limit: dict[str, Any], message: str
) -> None:
    launcher = Launch(config=ClusterConfig(**limit))
    until(lambda: cluster.jobs)
    cluster.phase("Pending")
    if phase == "Running":
        cluster.start()
    error = launcher.end()
    assert isinstance(error, LaunchError)
    with pytest.raises(LaunchError, match=message):
        raise error
    assert cluster.jobs == {}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (403, "permission denied by the cluster: forbidden by policy; apply k8s/base to namespace research"),
        (422, "the cluster rejected the job: forbidden by policy"),
        (404, "the cluster has no Volcano jobs (forbidden by policy); install Volcano"),
    ],
)
def test_a_rejected_job_is_one_line(cluster: Cluster, code: int, message: str) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command != "POST":
            return False
        handler.reply(*refused(code, "forbidden by policy"))  # type: ignore[attr-defined]
        return True

    cluster.faults = [refuse]
    assert str(Launch().end()) == message


def test_a_missing_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    error = Launch().end()
    assert isinstance(error, UserError)
    assert str(error).startswith("no Kubernetes cluster: ")
    assert "\n" not in str(error)


def test_log_lines_are_shown_once_through_broken_connections(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_launcher_cancels_its_job(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> bool:
        """Fail the first deletion, so that there is time for another signal."""
        if handler.command != "DELETE":
            return False
        handler.reply(*refused(500, "etcdserver: request timed out"))  # type: ignore[attr-defined]
        return True

    command = [sys.executable, "-c", "from xkd.cli import main; main()", "launch", "--preset", "toy"]
    paths = ["--data", "runs/data", "--out", "runs/mine"]
    with subprocess.Popen([*command, *paths], cwd=ROOT, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            until(lambda: cluster.jobs)
            cluster.start()
            assert launcher.stderr
            until(lambda: "Running" in launcher.stderr.readline())  # type: ignore[union-attr]
            cluster.faults = [slow]
            launcher.send_signal(number)
            until(lambda: not cluster.faults)
            for more in (signal.SIGTERM, signal.SIGINT):  # while it cancels
                launcher.send_signal(more)
            _, said = launcher.communicate(timeout=30)
        finally:
            launcher.kill()
    assert launcher.returncode in (143, 130, -number), said
    assert "Running, 1 attempt(s)" in said
    assert "; cancelling it" in said
    assert said.endswith(": cancelled\n") or number == signal.SIGINT
    assert cluster.jobs == {}


def test_release_cancels_the_active_jobs_of_its_pipeline_run(cluster: Cluster) -> None:
    mine = Launch(run_id="r1")
    until(lambda: len(cluster.jobs) == 1)
    other = Launch(run_id="r2", out=Path("runs/other"))
    until(lambda: len(cluster.jobs) == 2)
    assert len(release("r1")) == 1
    assert isinstance(mine.end(), LaunchError)
    assert [job["metadata"]["labels"]["pipeline/runid"] for job in cluster.jobs.values()] == ["r2"]
    cluster.start()
    complete(cluster)
    assert other.end() == Verdict(**HEALTHY)
    assert release("r2") == []  # an ended job is kept until its time to live passes
