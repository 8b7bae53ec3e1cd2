"""Launching on a cluster: jobs that are submitted, adopted and followed to every kind of end."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.launching import (
    COLLAPSED,
    CONFIG,
    HEALTHY,
    Launch,
    Shown,
    complete,
    fail,
    report,
    started,
)
from tests.tiny import tiny_config
from tests.waiting import until
from xkd.errors import CollapsedError, TrainingError, UserError, XkdError
from xkd.launch.kubernetes import submit
from xkd.launch.kubernetes.client import ApiUnavailableError
from xkd.launch.kubernetes.config import ClusterConfig
from xkd.launch.kubernetes.submit import LaunchError, release
from xkd.launch.launcher import describe, training_job
from xkd.rundir import Verdict


def test_a_job_is_submitted_and_its_verdict_is_returned(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = started(cluster)
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)
    assert cluster.submitted == 1
    said = capsys.readouterr().err
    assert f"xkd: job {cluster.name} submitted in namespace {cluster.namespace}" in said
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


def test_launchers_at_the_same_time_submit_one_job(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launchers, shown = [Launch() for _ in range(4)], Shown(capsys)
    until(lambda: shown.read().count("; attaching\n") == 3)
    cluster.start()
    complete(cluster)
    assert [launcher.end() for launcher in launchers] == [Verdict(**HEALTHY)] * 4
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
        cluster.delete_pods()
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


def test_different_work_has_a_different_job_name() -> None:
    def name(out: str, config: ClusterConfig = CONFIG, run_id: str = "") -> str:
        return training_job(tiny_config(), Path("data"), Path(out), config, run_id).name

    assert len({name("a"), name("b"), name("a", replace(CONFIG, image="other"))}) == 3
    assert name("a") == name("a", run_id="r1")  # whoever starts it


def test_an_unreachable_api_is_an_error_and_the_job_continues(cluster: Cluster) -> None:
    launcher = started(cluster)
    cluster.stop()
    error = launcher.end()
    assert isinstance(error, ApiUnavailableError)
    assert error.exit_code == 75
    assert re.match(r"requests to the Kubernetes API failed for 2 s \(.+\); the job continues, ", str(error))
    cluster.resume()
    complete(cluster)


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


def test_two_jobs_cannot_write_to_one_run_directory(cluster: Cluster) -> None:
    first = started(cluster, run_id="r1")
    name = cluster.name
    other = replace(CONFIG, image="other")
    for same in (Path("runs/mine"), Path("/workspace/runs/mine"), Path("runs/other/../mine")):
        error = Launch(other, run_id="r2", out=same).end()
        assert type(error) is UserError
        assert str(error).startswith(f"job {name} (Running) already writes to /workspace/runs/mine; ")
        assert str(error).endswith(f"kubectl delete vcjob {name} -n {cluster.namespace}")
    assert cluster.submitted == 1
    complete(cluster)
    first.end()
    second = Launch(other, run_id="r2")  # the first one has ended
    until(lambda: cluster.submitted == 2)
    cluster.delete_job(name)
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
    until(lambda: cluster.submitted == 2)
    cluster.start()
    complete(cluster)
    assert second.end() == Verdict(**HEALTHY)
    first.end()  # its job was deleted; between two polls, the new one of that name takes its place


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
    cluster.delete_job(cluster.name)
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
    until(lambda: not cluster.jobs)  # its pods end first


def test_a_deadline_of_another_kind_or_of_another_run_is_no_termination(cluster: Cluster) -> None:
    cluster.terminate("r2")
    cluster.terminate("r1", activeDeadlineSeconds=864000)
    launcher = started(cluster, run_id="r1")
    assert release("r1") == []
    complete(cluster)
    assert launcher.end() == Verdict(**HEALTHY)


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
