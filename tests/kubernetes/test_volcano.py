"""The manifest of the Volcano Job of a pretraining on two nodes of eight V100s."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.rendering import TRAINING, needs_kubectl, of_kind, selects
from tests.k8s.schemas import validate
from tests.k8s.security import flaws
from xkd.config import PretrainConfig
from xkd.config.overrides import build, resolve
from xkd.config.presets import get_preset
from xkd.errors import EXIT_BAD_NODE, EXIT_NO_PROGRESS, CollapsedError, UserError
from xkd.launch.kubernetes.config import NODE_TYPES, USER, ClusterConfig
from xkd.launch.kubernetes.job import job_name
from xkd.launch.launcher import training_job

DATA, OUT = Path("runs/data/kinetics400-prepared"), Path("runs/paper")
TWO = ClusterConfig(nodes=2, node_type="v100_gke", namespace="kubeflow")


def rendered(cluster: ClusterConfig = TWO, run_id: str = "") -> dict[str, Any]:
    return training_job(get_preset("paper"), DATA, OUT, cluster, run_id).manifest()


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [task["template"] for task in job["spec"]["tasks"]]


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def words(pod: dict[str, Any]) -> dict[str, str]:
    """Return the agent's options and the worker's arguments by name."""
    command = container(pod)["command"]
    return dict(pairwise(command))


@pytest.mark.parametrize("name", list(NODE_TYPES))
@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_the_manifest_fits_the_schemas_strictly(name: str, nodes: int) -> None:
    validate(rendered(ClusterConfig(nodes=nodes, node_type=name)))


def test_the_manifest_is_deterministic() -> None:
    assert rendered() == rendered()


def test_the_manifest_has_no_security_flaw() -> None:
    assert flaws(rendered()) == []


def test_a_training_pod_requests_a_whole_node() -> None:
    job = rendered()
    assert len(pods(job)) == job["spec"]["minAvailable"] == 2
    for pod in pods(job):
        wanted = {"cpu": "81", "memory": "306Gi", "nvidia.com/gpu": "8"}
        assert container(pod)["resources"] == {"requests": wanted, "limits": wanted}
        assert pod["spec"]["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-tesla-v100"}
        tolerated = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        assert pod["spec"]["tolerations"] == [tolerated]
        assert words(pod)["--processes"] == "8"
        # 81 cores for eight processes, four of each one's for its loader's workers.
        assert {"name": "OMP_NUM_THREADS", "value": "6"} in container(pod)["env"]


def test_the_first_host_has_the_rendezvous() -> None:
    first, second = map(words, pods(rendered()))
    assert (first["--node"], second["--node"]) == ("0", "1")
    assert first["--rendezvous"] == "$(TORCHX_RANK0_HOST):29400"
    assert {"name": "TORCHX_RANK0_HOST", "value": "localhost"} in container(pods(rendered())[0])["env"]
    assert second["--rendezvous"] == "$(VC_TRAIN_0_HOSTS):29400"
    assert second["--address"] == "$(VC_TRAIN_1_HOSTS)"
    assert first["--job"] == second["--job"] == rendered()["metadata"]["name"]
    assert first["--nodes"] == "2:2"
    # torch numbers hosts in the order of their names; metrics and logs are read from the first pod.
    names = [f"xkd-paper-0123456789-train-{host}-0" for host in range(16)]
    assert min(names) == names[0]


def test_the_worker_gets_every_setting() -> None:
    options = words(pods(rendered())[0])
    assert build(PretrainConfig, json.loads(options["--settings"]), "") == get_preset("paper")
    assert (options["--data"], options["--out"]) == (str(DATA), str(OUT))
    command = container(pods(rendered())[0])["command"]
    assert command[:3] == ["python", "-m", "xkd.launch.agent"]
    assert "xkd.train.pretrain" in command


def test_nothing_in_a_path_is_expanded() -> None:
    """As Kubernetes does: $(NAME) is a variable, if there is one, and $$ is $."""
    out = "runs/$HOME $(TORCHX_RANK0_HOST) $$ $$$(PATH) ${app_id} ${img_root} $"
    (pod, *_) = pods(training_job(get_preset("paper"), DATA, Path(out), TWO).manifest())
    known = {variable["name"]: variable.get("value", "") for variable in container(pod)["env"]}

    def expanded(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else known.get(match[1], match[0])

    given = [re.sub(r"\$\$|\$\((.*?)\)", expanded, word) for word in container(pod)["command"]]
    assert given[given.index("--out") + 1] == out
    assert given[given.index("--rendezvous") + 1] == "localhost:29400"


def test_all_failures_but_final_ones_restart_the_job() -> None:
    spec = rendered()["spec"]
    assert spec["policies"] == [
        {"exitCode": UserError.exit_code, "action": "TerminateJob"},
        {"exitCode": EXIT_NO_PROGRESS, "action": "TerminateJob"},
        {"exitCode": EXIT_BAD_NODE, "action": "TerminateJob"},
        {"exitCode": CollapsedError.exit_code, "action": "TerminateJob"},
        {"events": ["PodFailed", "PodEvicted"], "action": "RestartJob"},
    ]
    assert spec["maxRetry"] == 20 * TWO.restarts + 1
    assert words(pods(rendered())[0])["--attempts"] == str(TWO.restarts + 1)
    assert words(pods(rendered())[0])["--restarts"] == "1"
    assert spec["tasks"][0]["policies"] == [{"event": "TaskCompleted", "action": "CompleteJob"}]


def test_pods_have_time_to_save_and_an_ended_job_has_a_time_to_live() -> None:
    job = rendered()
    assert job["spec"]["ttlSecondsAfterFinished"] == TWO.ttl_seconds
    assert {pod["spec"]["terminationGracePeriodSeconds"] for pod in pods(job)} == {TWO.grace_seconds}
    assert {words(pod)["--grace"] for pod in pods(job)} == {str(TWO.grace_seconds)}


def test_a_job_may_start_with_fewer_hosts() -> None:
    job = rendered(replace(TWO, min_nodes=1))
    assert job["spec"]["minAvailable"] == 1
    assert [task["minAvailable"] for task in job["spec"]["tasks"]] == [1, 0]
    assert words(pods(job)[0])["--nodes"] == "1:2"
    with pytest.raises(UserError, match="256 must be a multiple of the 24 processes"):
        rendered(replace(TWO, nodes=4, min_nodes=2))  # three hosts would be possible too


def test_pods_have_shared_memory_a_scratch_volume_and_the_shared_claim() -> None:
    for pod in pods(rendered()):
        mounts = {mount["mountPath"]: mount["name"] for mount in container(pod)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
        assert volumes[mounts["/tmp"]]["emptyDir"] == {}
        assert volumes[mounts["/workspace/runs"]]["persistentVolumeClaim"] == {"claimName": "xkd"}
        assert container(pod)["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["spec"]["securityContext"]["runAsUser"] == USER


@needs_kubectl
def test_the_pod_monitor_finds_the_first_pod() -> None:
    monitor = of_kind("monitoring", "PodMonitor")["xkd"]
    first, second = pods(rendered())
    assert selects(monitor["spec"]["selector"], first["metadata"]["labels"])
    assert not selects(monitor["spec"]["selector"], second["metadata"]["labels"])
    port = monitor["spec"]["podMetricsEndpoints"][0]["portNumber"]
    assert {"name": "metrics", "containerPort": port} in container(first)["ports"]


def test_network_policies_select_the_pods() -> None:
    given = TRAINING.keys() - {"volcano.sh/job-name"}  # Volcano adds it
    labels = pods(rendered())[0]["metadata"]["labels"]
    assert {name: labels[name] for name in given} == {name: TRAINING[name] for name in given}


@needs_kubectl
def test_the_claim_queue_and_account_exist_in_the_base() -> None:
    job = rendered()
    assert job["spec"]["queue"] in of_kind("base", "Queue")
    assert "xkd" in of_kind("base", "PersistentVolumeClaim")
    assert {pod["spec"]["serviceAccountName"] for pod in pods(job)} <= of_kind(
        "base", "ServiceAccount"
    ).keys()


def in_zones(*zones: str, **fields: Any) -> dict[str, Any]:
    """Return an affinity to any of some zones, with further fields of each term."""
    terms = [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}], **fields}
        for zone in zones
    ]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def test_every_term_of_an_affinity_excludes_the_bad_nodes() -> None:
    preferred: dict[str, Any] = {"preferredDuringSchedulingIgnoredDuringExecution": []}
    others = {"podAffinity": preferred}
    given = others | {"nodeAffinity": preferred | in_zones("a", "b")["nodeAffinity"]}
    job = training_job(get_preset("paper"), DATA, OUT, replace(TWO, affinity=given))
    manifest = job.manifest("s", {"gpu-7", "gpu-3"})
    validate(manifest)
    excluded = [
        {"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in ("gpu-3", "gpu-7")
    ]
    expected = others | {"nodeAffinity": preferred | in_zones("a", "b", matchFields=excluded)["nodeAffinity"]}
    assert [pod["spec"]["affinity"] for pod in pods(manifest)] == [expected, expected]
    assert manifest["metadata"]["annotations"] == {"xkd/avoided-nodes": "gpu-3,gpu-7"}
    assert job.cluster.affinity == given


def test_every_node_type_says_what_connects_its_nodes() -> None:
    for name, node in NODE_TYPES.items():
        assert node["network"].startswith("TCP"), name
        for nodes, network in ((1, ""), (2, node["network"])):
            cluster = ClusterConfig(nodes=nodes, node_type=name)
            assert training_job(get_preset("paper"), DATA, OUT, cluster).network == network


def test_each_pod_checks_its_device_and_knows_its_node() -> None:
    of_gpus, of_cpus = rendered(), rendered(ClusterConfig(nodes=2))
    for job, device in ((of_gpus, "cuda"), (of_cpus, "cpu")):
        for pod in pods(job):
            assert words(pod)["--preflight"] == device
            node = {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
            assert node in container(pod)["env"]


def test_cluster_settings_reach_the_pods() -> None:
    affinity = in_zones("a")
    cluster = resolve(
        TWO,
        None,
        [
            "priority_class=high",
            "queue=research",
            "image_pull_secrets=[registry]",
            "node_selector={pool: v100}",
            "tolerations=[{key: spot, operator: Exists}]",
            f"affinity={json.dumps(affinity)}",
            "env=[{name: NCCL_DEBUG, value: INFO}, {name: NCCL_IB_DISABLE, value: '1'}]",
            "resources={limits: {nvidia.com/gpu: '4'}}",
            "grace_seconds=900",
        ],
    )
    job = rendered(cluster, run_id="r1")
    validate(job)
    assert (job["spec"]["queue"], job["spec"]["priorityClassName"]) == ("research", "high")
    assert job["metadata"]["labels"]["pipeline/runid"] == "r1"
    for pod in pods(job):
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["spec"]["nodeSelector"] == {"pool": "v100"}
        assert pod["spec"]["tolerations"] == [{"key": "spot", "operator": "Exists"}]
        assert pod["spec"]["affinity"] == affinity
        assert pod["spec"]["terminationGracePeriodSeconds"] == 900
        assert pod["metadata"]["labels"]["pipeline/runid"] == "r1"
        resources = container(pod)["resources"]
        assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "4"
        assert words(pod)["--processes"] == "4"
        values = {variable["name"]: variable.get("value") for variable in container(pod)["env"]}
        assert (values["KFP_RUN_ID"], values["NCCL_IB_DISABLE"], values["NCCL_DEBUG"]) == ("r1", "1", "INFO")


@pytest.mark.parametrize("run", ["paper", "", "Ünïcode…", "x" * 200, "a_b.c-", "--"])
def test_names_are_short_enough_for_pods_and_labels(run: str) -> None:
    name = job_name(run, "work")
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(f"{name}-train-999-0") <= 63
    assert job_name(run, "work") == name != job_name(run, "other work")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("node_type=v100_gcp", "unknown node type 'v100_gcp' (did you mean v100_gke"),
        ("nodes=0", "configuration: nodes: must be greater than 0, got 0"),
        ("processes=3", "optim.batch_size 256 must be a multiple of the 6 processes"),
        ("min_nodes=3", "configuration: min_nodes 3 must be at most nodes, 2"),
        ("node=2", "node=2: unknown setting node (did you mean nodes"),
        ("tolerations=spot", "configuration: tolerations: "),
        ("nodes=3", "optim.batch_size 256 must be a multiple of the 24 processes"),
        (
            "tolerations=[{key: spot",
            "tolerations=[{key: spot: the value is not valid YAML",
        ),
        (
            "resources={limits: {cpu: lots}}",
            "configuration: resources.limits.cpu: 'lots' is not a quantity",
        ),
        ("grace_seconds=0", "configuration: grace_seconds: must be greater than 0, got 0"),
    ],
)
def test_a_mistake_is_one_line(setting: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        rendered(resolve(TWO, None, [setting]))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_dry_run_prints_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    from xkd.cli import app

    words = ["launch", "--preset", "paper", "--data", str(DATA), "--out", str(OUT), "--dry-run"]
    settings = ("nodes=2", "node_type=v100_gke", "namespace=kubeflow")
    app([*words, *(f"--cluster-set={setting}" for setting in settings)], standalone_mode=False)
    assert yaml.safe_load(capsys.readouterr().out) == rendered()


def test_local_training_needs_no_kubernetes_client() -> None:
    """The client is an optional dependency; only jobs on a cluster import it."""
    modules = (
        "xkd/launch/launcher.py",
        "xkd/launch/local.py",
        "xkd/cli/training.py",
        "xkd/launch/kubernetes/config.py",
    )
    for path in map(Path, modules):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith(("kubernetes", "xkd.launch.kubernetes.job")) for name in names), (
                path
            )
