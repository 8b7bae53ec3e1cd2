"""The tasks that use a cluster, run as in their pods: the compiled command and KFP's own executor.

The cluster is that of the launcher's tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.components.containers import RELEASE, TASK, compile_containers, fill
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import cluster as cluster
from tests.kubernetes.conftest import fake as fake
from tests.kubernetes.conftest import real as real
from tests.waiting import until
from xkd.launch.kubernetes.config import TOLERATIONS, VOLUME

pytestmark = pytest.mark.system

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
VERDICT = {"verdict": "healthy", "reason": "it learns", "step": 28}
PRETRAIN = {
    "preset": "toy",
    "settings": ["run.seed=1"],
    "data": "runs/data",
    "revision": "1",
    "out": "runs/mine",
    "processes": 1,
    "nodes": 2,
    "image": "xkd:1-cpu",
    "gpu_image": "xkd:1",
    "node_type": "v100_gke",
    "cpu": "",
    "memory": "300Gi",
    "gpus": "4",
    "cluster_settings": ["restarts=5"],
    "task": TASK,
}


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return compile_containers(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def start(containers: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a task's container in a new process group."""
    started: list[subprocess.Popen[str]] = []

    def start(task: str, inputs: dict[str, Any], run_id: str = "run-1") -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
        process = subprocess.Popen(
            fill(containers[task], task, inputs, tmp_path),
            cwd=tmp_path,
            env={**kept, "KUBECONFIG": str(tmp_path / "kubeconfig"), "KFP_RUN_ID": run_id, "PATH": PATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def submitted(cluster: Cluster, task: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Return the task once its job is submitted."""
    until(lambda: cluster.jobs or task.poll() is not None)
    assert cluster.jobs, task.communicate()[0]
    return task


def test_pretraining_is_a_job_with_the_settings_of_its_task(
    cluster: Cluster, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("the job's")
    (run / "metrics.jsonl").write_text("{}")
    task = submitted(cluster, start("pretrain", PRETRAIN))
    labels, spec = cluster.job["metadata"]["labels"], cluster.job["spec"]
    assert labels["pipeline/runid"] == "run-1"
    assert spec["maxRetry"] == 101
    assert len(spec["tasks"]) == 2
    for pod in (task["template"]["spec"] for task in spec["tasks"]):
        assert pod["containers"][0]["image"] == "xkd:1"
        # Those of the node type, where no others are given; the task's own are not the job's.
        limits = {"cpu": "81", "memory": "300Gi", "nvidia.com/gpu": "4"}
        assert pod["containers"][0]["resources"] == {"limits": limits, "requests": limits}
        assert pod["tolerations"] == list(TOLERATIONS)
        assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-tesla-v100"}
        assert {"name": VOLUME, "mountPath": "/workspace/runs"} in pod["containers"][0]["volumeMounts"]
    cluster.start()
    report = {"message": "finished", "errorCode": 0, "extraInfo": {"verdict": VERDICT}}
    cluster.end_pod(0, 0, json.dumps({"message": report}))
    cluster.end_pod(1, 0)
    cluster.phase("Completed")
    said, _ = task.communicate(timeout=60)
    assert task.returncode == 0, said
    assert "verdict: healthy: it learns" in said
    output = json.loads((tmp_path / "out.json").read_text())
    assert output["parameterValues"] == {"verdict": "healthy", "reason": "it learns", "evaluate": "yes"}
    assert (tmp_path / "config").read_text() == "the job's"


def test_a_completed_job_whose_verdict_is_out_of_reach_is_an_unknown_verdict(
    cluster: Cluster, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    task = submitted(cluster, start("pretrain", PRETRAIN))
    cluster.start()
    cluster.end_pod(0, 0)
    cluster.phase("Completed")
    said, _ = task.communicate(timeout=60)
    assert task.returncode == 0, said
    reason = "the job completed; its verdict is in runs/mine/verdict.json on the cluster's volume"
    output = json.loads((tmp_path / "out.json").read_text())
    assert output["parameterValues"] == {"verdict": "unknown", "reason": reason, "evaluate": "no"}


def test_a_collapsed_run_is_a_verdict_of_its_task(
    cluster: Cluster, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    collapsed = {"verdict": "one_hot", "reason": "KD is 0", "step": 12}
    task = submitted(cluster, start("pretrain", PRETRAIN))
    cluster.start()
    report = {"message": "the run ended as one_hot", "errorCode": 76, "extraInfo": {"verdict": collapsed}}
    cluster.end_pod(0, 76, json.dumps({"message": report}))
    cluster.phase("Terminated")
    said, _ = task.communicate(timeout=60)
    assert task.returncode == 0, said
    output = json.loads((tmp_path / "out.json").read_text())
    assert output["parameterValues"] == {"verdict": "one_hot", "reason": "KD is 0", "evaluate": "no"}


def test_the_job_of_a_task_continues_unless_the_pipeline_run_was_terminated(
    cluster: Cluster, start: Callable[..., subprocess.Popen[str]]
) -> None:
    task = submitted(cluster, start("pretrain", PRETRAIN))
    os.killpg(task.pid, signal.SIGTERM)  # its pod is evicted; Argo's executor signals all that it started
    assert f"job {cluster.name}: continues" in task.communicate(timeout=60)[0]
    again = start("pretrain", PRETRAIN)
    assert again.stdout
    assert any("attaching" in line for line in again.stdout)
    cluster.terminate("run-1")
    os.killpg(again.pid, signal.SIGTERM)
    assert f"job {cluster.name}: cancelled\n" in again.communicate(timeout=60)[0]
    until(lambda: not cluster.jobs)
    assert cluster.submitted == 1


def test_release_cancels_only_the_jobs_of_its_run(
    cluster: Cluster, start: Callable[..., subprocess.Popen[str]]
) -> None:
    task = submitted(cluster, start("pretrain", PRETRAIN))
    os.killpg(task.pid, signal.SIGKILL)  # as when its node is lost
    name = cluster.name
    cluster.terminate("run-1")
    other = start("release", RELEASE, run_id="run-2")
    assert "jobs cancelled: none" in other.communicate(timeout=60)[0]
    assert list(cluster.jobs) == [name]
    this = start("release", RELEASE)
    assert f"jobs cancelled: {name}" in this.communicate(timeout=60)[0]
    assert this.returncode == 0
    until(lambda: not cluster.jobs)


def test_a_users_mistake_is_one_line(
    cluster: Cluster, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    task = start("pretrain", PRETRAIN | {"preset": "tyo"})
    said, _ = task.communicate(timeout=60)
    assert task.returncode == 2
    (line,) = said.splitlines()
    assert line.startswith("error: unknown preset 'tyo'")
    assert not cluster.jobs
