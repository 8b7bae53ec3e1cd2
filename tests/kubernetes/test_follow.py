"""Launching on a cluster: the real launcher and Kubernetes client against a fake API server."""

from __future__ import annotations

import json
import os
import pty
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
from xkd.launch.kubernetes import client, follow, submit
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
    monkeypatch.setattr(follow, "_FLUSH_SECONDS", 0.5)
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
    cluster.phase(phase, cluster.job["spec"]["maxRetry"] if phase == "Failed" else 0)


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


def test_what_connects_the_nodes_is_said_once(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(CONFIG, node_type="a100_gke")
    first, second = started(cluster, config=config), Launch(config=config)
    shown = Shown(capsys)
    shown.wait("attaching")
    complete(cluster)
    assert first.end() == second.end() == Verdict(**HEALTHY)
    assert shown.read().count("xkd: between nodes: TCP; untested, see docs/kubernetes.md\n") == 1


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
    def name(out: str, config: ClusterConfig = CONFIG, run_id: str = "") -> str:
        return training_job(tiny_config(), Path("data"), Path(out), config, run_id).name

    assert len({name("a"), name("b"), name("a", replace(CONFIG, image="other"))}) == 3
    assert name("a") == name("a", run_id="r1")  # whoever starts it


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
    assert str(error).startswith("requests to the Kubernetes API failed for 2 s (no leader); the job contin")
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


def rejecting(code: int) -> Callable[[BaseHTTPRequestHandler], bool]:
    def reject(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command != "GET" or "/jobs/" not in handler.path:
            return False
        handler.reply(*refused(code, "not you"))  # type: ignore[attr-defined]
        return True

    return reject


def test_a_followed_job_is_followed_through_a_change_of_credentials(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = started(cluster)
    cluster.faults = [rejecting(code) for code in (401, 403, 401)]
    until(lambda: not cluster.faults)
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
    assert "a request to the Kubernetes API failed (not you); retrying" in capsys.readouterr().err


def test_credentials_that_stay_rejected_leave_the_job_running(cluster: Cluster) -> None:
    launcher = started(cluster)
    cluster.faults = [rejecting(401) for _ in range(1000)]
    error = launcher.end()
    assert isinstance(error, ApiUnavailableError)
    assert str(error) == (
        "requests to the Kubernetes API failed for 2 s (not you); the job continues, "
        "rerun the command to attach to it"
    )
    complete(cluster)


def test_two_jobs_cannot_write_to_one_run_directory(cluster: Cluster) -> None:
    first = started(cluster, run_id="r1")
    name = cluster.name
    other = replace(CONFIG, image="other")
    for same in (Path("runs/mine"), Path("/workspace/runs/mine"), Path("runs/other/../mine")):
        error = Launch(other, run_id="r2", out=same).end()
        assert type(error) is UserError
        assert str(error).startswith(f"job {name} (Running) already writes to /workspace/runs/mine; ")
        assert str(error).endswith(f"kubectl delete vcjob {name} -n research")
    assert cluster.submitted == 1
    complete(cluster)
    first.end()
    second = Launch(other, run_id="r2")  # the first one has ended
    until(lambda: cluster.submitted == 2)
    del cluster.jobs[name]
    cluster.start()
    complete(cluster)
    assert second.end() == Verdict(**HEALTHY)


def test_a_job_waits_until_an_earlier_one_of_its_directory_is_deleted(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.stuck = True
    cluster.terminate("r1")
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
    assert "Failed, 101 attempt(s), " in said
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
            "after 100 restart.*worker 3 failed with exit code 1",
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
    assert error.exit_code == arguments[0]
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


@pytest.mark.parametrize("run_id", ["", "r1"])
def test_a_job_that_volcano_gives_up_with_restarts_left_is_submitted_again(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], run_id: str
) -> None:
    launcher = started(cluster, run_id=run_id)
    for number in (0, 1):  # at once
        cluster.end_pod(number, 1, report("NCCL error", 1))
    cluster.phase("Failed", 1)
    until(lambda: cluster.submitted == 2)
    assert "Failed, 2 attempt(s)" in capsys.readouterr().err
    cluster.start()
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)


def test_a_job_that_cannot_be_submitted_again_is_one_line(cluster: Cluster) -> None:
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


def test_a_job_that_fails_again_and_again_has_no_more_restarts_than_it_may(cluster: Cluster) -> None:
    launcher = started(cluster, config=replace(CONFIG, restarts=1))
    for submitted in (1, 2):
        until(lambda: cluster.submitted == submitted and cluster.jobs)  # noqa: B023
        cluster.start()
        cluster.end_pod(0, 1, report("trouble", 1))
        cluster.phase("Failed", 3)
    error = launcher.end()
    assert isinstance(error, TrainingError)
    assert "trouble" in str(error)
    assert cluster.submitted == 2


def excluded(cluster: Cluster) -> list[str]:
    """Return the nodes that each pod of the job must not run on."""
    found = []
    for task in cluster.job["spec"]["tasks"]:
        required = task["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = required["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert [(each["key"], each["operator"]) for each in term["matchFields"]] == [
            ("metadata.name", "NotIn")
        ] * len(term["matchFields"])
        found.append([node for each in term["matchFields"] for node in each["values"]])
    first, *others = found
    assert others == [first] * len(others)
    return first


def fail_preflight(cluster: Cluster, node: str) -> None:
    line = f"preflight failed: node {node}, GPU 3 (V100, GPU-1): matrix product: wrong result"
    cluster.start()
    cluster.end_pod(1, 71, report(line, 71, nodes=[node]))
    cluster.phase("Terminated")


@pytest.mark.parametrize("run_id", ["", "r1"])
def test_a_job_with_a_bad_gpu_is_submitted_again_without_its_node(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], run_id: str
) -> None:
    launcher, shown = Launch(run_id=run_id), Shown(capsys)
    nodes: list[str] = []
    for node in ("gpu-7", "gpu-3"):
        until(lambda: cluster.submitted == len(nodes) + 1 and cluster.jobs)
        fail_preflight(cluster, node)
        nodes.append(node)
    until(lambda: cluster.submitted == 3 and cluster.jobs)
    assert excluded(cluster) == ["gpu-3", "gpu-7"]
    assert f"pod {cluster.name}-train-1-0: preflight failed: node gpu-3, GPU 3" in shown.read()
    assert "is Terminated; restarting it without node gpu-3, gpu-7\n" in shown.read()
    cluster.start()
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)


def test_a_bad_gpu_uses_up_no_more_than_the_restarts(cluster: Cluster) -> None:
    launcher = Launch(config=replace(CONFIG, restarts=1), run_id="r1")
    for submitted in (1, 2):
        until(lambda: cluster.submitted == submitted and cluster.jobs)  # noqa: B023
        fail_preflight(cluster, f"gpu-{submitted}")
    first, again = launcher.end(), Launch(config=replace(CONFIG, restarts=1), run_id="r1").end()
    for error in (first, again):
        assert isinstance(error, TrainingError)
        assert error.exit_code == 71
        assert str(error).startswith("preflight failed: node gpu-2, GPU 3")
    assert cluster.submitted == 2


@pytest.mark.parametrize("run_id", ["", "r1"])
def test_a_later_launcher_avoids_the_nodes_that_failed_before(cluster: Cluster, run_id: str) -> None:
    submit.submit(training_job(tiny_config(), Path("runs/data"), Path("runs/mine"), CONFIG, run_id))
    fail_preflight(cluster, "gpu-7")
    launcher = Launch(run_id=run_id)
    until(lambda: cluster.submitted == 2 and cluster.jobs)
    assert excluded(cluster) == ["gpu-7"]
    cluster.start()
    fail(cluster, 1, report("trouble", 1))
    launcher.end()
    other = Launch(run_id="r2")
    until(lambda: cluster.submitted == 3 and cluster.jobs)
    assert excluded(cluster) == ["gpu-7"]
    cluster.start()
    complete(cluster)
    assert other.end() == Verdict(**HEALTHY)


def test_a_completed_job_is_not_submitted_again_for_an_earlier_bad_gpu(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = started(cluster)
    cluster.end_pod(1, 71, report("preflight failed: node gpu-7", 71, nodes=["gpu-7"]))
    Shown(capsys).wait("preflight failed: node gpu-7")
    cluster.restart()  # another pod had failed before
    cluster.start()
    cluster.end_pod(0, 0, report("finished", 0, verdict=HEALTHY))
    cluster.phase("Completed", 1)
    assert launcher.end() == Verdict(**HEALTHY)
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
def test_a_rejected_job_is_one_line(cluster: Cluster, code: int, reason: str, advice: str) -> None:
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


class Command:
    """A launcher as a process of its own, whose job runs."""

    def __init__(self, cluster: Cluster, run_id: str = "", terminal: bool = False) -> None:
        program = "from pathlib import Path; from tests.tiny import tiny_config as tiny; "
        program += (
            "from xkd.launch.kubernetes.config import ClusterConfig; from xkd.launch.launcher import launch; "
        )
        program += (
            f"launch(tiny(), Path('runs/data'), Path('runs/mine'), 1, ClusterConfig(nodes=2), {run_id!r})"
        )
        self.terminal, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
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

    def end(self) -> int:
        _, said = self.process.communicate(timeout=60)
        self.said += said
        os.close(self.terminal)
        return self.process.returncode


@pytest.fixture
def command(cluster: Cluster) -> Iterator[Callable[..., Command]]:
    """Start launchers as processes; end those that are left."""
    commands: list[Command] = []

    def start(*arguments: Any, **options: Any) -> Command:
        commands.append(Command(cluster, *arguments, **options))
        return commands[-1]

    yield start
    for each in commands:
        each.process.kill()


Start = Callable[..., Command]


@pytest.mark.system
def test_a_job_continues_after_its_launcher_is_terminated(cluster: Cluster, command: Start) -> None:
    for run_id in ("", "r1"):
        launcher = command(run_id)
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.end() in (143, -signal.SIGTERM), launcher.said
        assert "Running, 1 attempt(s)" in launcher.said
        assert (
            f"job {cluster.name}: continues; rerun the command to attach to it, or cancel it: "
            f"xkd launch --cancel {cluster.name} --cluster-set namespace=research"
        ) in launcher.said
    assert cluster.submitted == 1
    complete(cluster)


@pytest.mark.system
@pytest.mark.parametrize("spec", [{"activeDeadlineSeconds": 0}, {"shutdown": "Terminate"}])
def test_terminating_a_pipeline_run_cancels_its_job(
    cluster: Cluster, command: Start, spec: dict[str, Any]
) -> None:
    launcher = command("r1")
    cluster.terminate("r1", **spec)
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.end() in (143, -signal.SIGTERM), launcher.said
    assert launcher.said.endswith(": cancelled\n")
    assert cluster.jobs == {}


def test_a_deadline_of_another_kind_or_of_another_run_is_no_termination(cluster: Cluster) -> None:
    cluster.terminate("r2")
    cluster.terminate("r1", activeDeadlineSeconds=864000)
    launcher = started(cluster, run_id="r1")
    assert release("r1") == []
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)


@pytest.mark.system
def test_ctrl_c_cancels_a_job_that_the_launcher_submitted(cluster: Cluster, command: Start) -> None:
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


@pytest.mark.system
def test_ctrl_c_leaves_a_job_that_the_launcher_only_attached_to(cluster: Cluster, command: Start) -> None:
    first = started(cluster, config=ClusterConfig(nodes=2))
    second = command()
    second.process.send_signal(signal.SIGINT)
    assert second.end() in (130, -signal.SIGINT), second.said
    assert f"job {cluster.name}: continues; " in second.said
    complete(cluster)
    assert first.end() == Verdict(**HEALTHY)


@pytest.mark.system
@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_at_a_terminal_ctrl_c_asks(cluster: Cluster, command: Start, answer: str, left: int) -> None:
    launcher = command(terminal=True)
    launcher.process.send_signal(signal.SIGINT)
    launcher.wait(f"xkd: cancel job {cluster.name} too? [y/N] ")
    os.write(launcher.terminal, answer.encode())
    assert launcher.end() in (130, -signal.SIGINT), launcher.said
    assert len(cluster.jobs) == left
    if left:
        complete(cluster)


def test_another_run_of_a_pipeline_adopts_the_job(cluster: Cluster) -> None:
    first = started(cluster, run_id="r1")
    second = Launch(run_id="r2")
    until(lambda: cluster.job["metadata"]["labels"]["pipeline/runid"] == "r2")
    cluster.terminate("r1")
    assert release("r1") == []
    complete(cluster)
    assert first.end() == second.end() == Verdict(**HEALTHY)
    assert cluster.submitted == 1


def test_release_cancels_the_active_jobs_of_a_terminated_run(cluster: Cluster) -> None:
    mine = Launch(run_id="r1")
    until(lambda: len(cluster.jobs) == 1)
    other = Launch(run_id="r2", out=Path("runs/other"))
    until(lambda: len(cluster.jobs) == 2)
    assert release("r1") == []  # it failed, or its launcher is being moved
    cluster.terminate("r1")
    assert len(release("r1")) == 1
    assert isinstance(mine.end(), LaunchError)
    assert [job["metadata"]["labels"]["pipeline/runid"] for job in cluster.jobs.values()] == ["r2"]
    cluster.start()
    complete(cluster)
    assert other.end() == Verdict(**HEALTHY)
    cluster.terminate("r2")
    assert release("r2") == []  # an ended job is kept until its time to live passes


def test_release_without_permission_to_read_workflows_leaves_the_job(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
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


@pytest.mark.system
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
    assert cluster.jobs == {}
    missing = xkd("--cancel", name)
    assert (missing.returncode, missing.stderr) == (
        2,
        f"xkd: no job {name} in namespace research; list them: kubectl get vcjob -n research\n",
    )
    assert xkd().stderr == "xkd: launch needs --data and --out, or --cancel with the name of a job\n"
