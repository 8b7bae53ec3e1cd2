"""The Kubernetes settings of a KFP task become those of its job; cluster settings override them."""

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
from xkd.launch.kubernetes.from_kfp import cluster_of_task
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
}
"""As KFP's driver writes it."""
RESOURCES = {"nvidia.com/gpu": "4", "cpu": "40", "memory": ""}
NOTHING: dict[str, Any] = dict.fromkeys(GIVEN)
"""The same for a task that is given nothing."""


def as_read(given: dict[str, Any], folder: Path) -> TaskConfig:
    """Return the settings as a component gets them from KFP's executor."""
    read: list[TaskConfig] = []

    def component(task: TaskConfig) -> None:
        read.append(task)

    component.__annotations__ = {"task": TaskConfig, "return": None}  # KFP reads no postponed ones
    outputs = {"outputFile": str(folder / "output.json")}
    Executor({"inputs": {"parameterValues": {"task": given}}, "outputs": outputs}, component).execute()
    return read[0]


def test_without_nodes_there_is_no_cluster() -> None:
    assert cluster_of_task(0, ["no=matter"]) is None


@pytest.mark.parametrize("given", [None, {}, NOTHING], ids=["no task", "nothing", "nulls"])
def test_a_task_without_settings_has_the_defaults(given: dict[str, Any] | None, tmp_path: Path) -> None:
    task = None if given is None else as_read(given, tmp_path)
    assert cluster_of_task(2, [], "xkd:1", task=task) == ClusterConfig(nodes=2, image="xkd:1")


def test_the_settings_of_the_task_are_those_of_the_job(tmp_path: Path) -> None:
    cluster = cluster_of_task(2, [], "xkd:1", resources=RESOURCES, task=as_read(GIVEN, tmp_path))
    assert cluster == ClusterConfig(
        nodes=2,
        image="xkd:1",
        affinity=AFFINITY,
        tolerations=tuple(GIVEN["tolerations"]),
        node_selector={"pool": "v100"},
        env=tuple(GIVEN["env"]),
        volumes=tuple(GIVEN["volumes"]),
        volume_mounts=tuple(GIVEN["volumeMounts"]),
        resources={"limits": {"nvidia.com/gpu": "4", "cpu": "40"}},
    )


def test_cluster_settings_override_those_of_the_task(tmp_path: Path) -> None:
    settings = ["queue=research", "restarts=5", "image=other", "node_selector={pool: a100}", "volumes=[]"]
    cluster = cluster_of_task(2, settings, "xkd:1", task=as_read(GIVEN, tmp_path))
    assert cluster is not None
    assert (cluster.queue, cluster.restarts, cluster.image, cluster.nodes) == ("research", 5, "other", 2)
    assert cluster.node_selector == {"pool": "a100"}
    assert cluster.volumes == ()
    assert cluster.volume_mounts == tuple(GIVEN["volumeMounts"])


def test_a_node_type_sets_what_the_task_does_not(tmp_path: Path) -> None:
    resources = {"nvidia.com/gpu": "4"}
    cluster = cluster_of_task(2, [], "xkd:1", "v100_gke", resources, as_read(NOTHING, tmp_path))
    assert cluster is not None
    resolved = cluster.resolved()
    assert resolved.node_selector == {"cloud.google.com/gke-accelerator": "nvidia-tesla-v100"}
    assert resolved.resources["limits"]["nvidia.com/gpu"] == "4"
    assert resolved.resources["limits"]["cpu"] == "81"


@pytest.mark.parametrize(
    ("nodes", "setting", "line"),
    [
        (1, "quue=research", "unknown setting quue (did you mean queue?)"),
        (1, "restarts=many", "restarts: must be an integer"),
        (-1, "restarts=1", "nodes: must be greater than 0, got -1"),
    ],
)
def test_a_mistake_is_one_line(nodes: int, setting: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        cluster_of_task(nodes, [setting])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_pods_of_the_job_have_all_settings(tmp_path: Path) -> None:
    cluster = cluster_of_task(
        2, ["queue=research"], "xkd:1", resources=RESOURCES, task=as_read(GIVEN, tmp_path)
    )
    assert cluster is not None
    job = training_job(PretrainConfig(), Path("runs/data"), Path("runs/mine"), cluster, "run-1")
    manifest = job.manifest()
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
        # The run's id comes from its label or as a value, but only once.
        assert task["template"]["metadata"]["labels"]["pipeline/runid"] == "run-1"
        assert [variable["name"] for variable in container["env"]].count("KFP_RUN_ID") == 1
