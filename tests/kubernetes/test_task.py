"""What KFP says a task is given becomes the job's, and what is said of the cluster goes over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import TaskConfig
from kfp.dsl.executor import Executor

from xkd.config import PretrainConfig
from xkd.errors import UserError
from xkd.launch.kubernetes.config import ClusterConfig
from xkd.launch.kubernetes.from_kfp import from_task
from xkd.launch.launcher import training_job

AFFINITY: dict[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
GIVEN: dict[str, Any] = {
    "affinity": AFFINITY,
    "tolerations": [{"key": "gpus", "operator": "Exists", "effect": "NoSchedule"}],
    "nodeSelector": {"pool": "v100"},
    "env": [
        {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"},
        {"name": "KFP_RUN_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['pipeline/runid']"}}},
    ],
    "volumes": [{"name": "team", "persistentVolumeClaim": {"claimName": "team"}}],
    "volumeMounts": [{"name": "team", "mountPath": "/workspace/runs"}],
    "resources": {"limits": {"nvidia.com/gpu": "4", "cpu": 40.0}, "requests": {"cpu": 0.5, "memory": "64Gi"}},
}
"""As KFP's driver writes it, but for the numbers, which it writes as strings."""
NOTHING: dict[str, Any] = {name: {} if name == "resources" else None for name in GIVEN}
"""The same for a task that is given nothing."""


def as_read(given: dict[str, Any], folder: Path) -> TaskConfig:
    """What a component gets, through KFP's own executor."""
    read: list[TaskConfig] = []

    def component(task: TaskConfig) -> None:
        read.append(task)

    component.__annotations__ = {"task": TaskConfig, "return": None}  # KFP reads no postponed ones
    outputs = {"outputFile": str(folder / "output.json")}
    Executor({"inputs": {"parameterValues": {"task": given}}, "outputs": outputs}, component).execute()
    return read[0]


def test_without_nodes_there_is_no_cluster() -> None:
    assert from_task(0, "xkd", ["no=matter"]) is None


@pytest.mark.parametrize("given", [None, {}, NOTHING], ids=["no task", "nothing", "nulls"])
def test_what_is_not_given_is_as_without_kfp(given: dict[str, Any] | None, tmp_path: Path) -> None:
    task = None if given is None else as_read(given, tmp_path)
    assert from_task(2, "xkd:1", [], task) == ClusterConfig(nodes=2, image="xkd:1")


def test_what_the_task_is_given_is_the_jobs(tmp_path: Path) -> None:
    place = from_task(2, "xkd:1", [], as_read(GIVEN, tmp_path))
    assert place == ClusterConfig(
        nodes=2,
        image="xkd:1",
        affinity=AFFINITY,
        tolerations=tuple(GIVEN["tolerations"]),
        node_selector={"pool": "v100"},
        env=tuple(GIVEN["env"]),
        volumes=tuple(GIVEN["volumes"]),
        volume_mounts=tuple(GIVEN["volumeMounts"]),
        resources={
            "limits": {"nvidia.com/gpu": "4", "cpu": "40"},
            "requests": {"cpu": "0.5", "memory": "64Gi"},
        },
    )


def test_what_is_said_of_the_cluster_goes_over_it(tmp_path: Path) -> None:
    said = ["queue=research", "restarts=5", "image=other", "node_selector={pool: a100}", "volumes=[]"]
    place = from_task(2, "xkd:1", said, as_read(GIVEN, tmp_path))
    assert place is not None
    assert (place.queue, place.restarts, place.image, place.nodes) == ("research", 5, "other", 2)
    assert place.node_selector == {"pool": "a100"}
    assert place.volumes == ()
    assert place.volume_mounts == tuple(GIVEN["volumeMounts"])


def test_a_node_type_gives_what_the_task_is_not_given(tmp_path: Path) -> None:
    given = NOTHING | {"resources": {"limits": {"nvidia.com/gpu": "4"}}}
    place = from_task(2, "xkd:1", ["node_type=v100_gke"], as_read(given, tmp_path))
    assert place is not None
    placed = place.resolved()
    assert placed.node_selector == {"cloud.google.com/gke-accelerator": "nvidia-tesla-v100"}
    assert placed.resources["limits"]["nvidia.com/gpu"] == "4"
    assert placed.resources["limits"]["cpu"] == "81"


def test_no_node_type_is_none() -> None:
    assert from_task(1, "xkd:1", ["node_type=''"]) == ClusterConfig(image="xkd:1")


@pytest.mark.parametrize(
    ("nodes", "said", "line"),
    [
        (1, "quue=research", "no setting quue (did you mean queue?)"),
        (1, "restarts=many", "restarts: Input should be a valid integer"),
        (-1, "restarts=1", "nodes -1 must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(nodes: int, said: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        from_task(nodes, "xkd", [said])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_jobs_pods_have_it_all(tmp_path: Path) -> None:
    place = from_task(2, "xkd:1", ["queue=research"], as_read(GIVEN, tmp_path))
    assert place is not None
    job = training_job(PretrainConfig(), Path("runs/data"), Path("runs/mine"), place, "run-1").request()
    manifest = job.request.resource
    json.dumps(manifest)
    assert manifest["spec"]["queue"] == "research"
    for task in manifest["spec"]["tasks"]:
        pod = task["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "xkd:1"
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "4", "cpu": "40"}
        assert pod["nodeSelector"] == {"pool": "v100"}
        assert pod["tolerations"] == GIVEN["tolerations"]
        assert pod["affinity"] == AFFINITY
        assert GIVEN["volumes"][0] in pod["volumes"]
        assert GIVEN["volumeMounts"][0] in container["volumeMounts"]
        assert GIVEN["env"][0] in container["env"]
        # The run's id comes with its label or as a value, but once.
        assert task["template"]["metadata"]["labels"]["pipeline/runid"] == "run-1"
        assert [variable["name"] for variable in container["env"]].count("KFP_RUN_ID") == 1
