"""What a real API server makes of the manifests and of jobs with their pods; it drops unknown fields."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests.cluster.apiserver import ApiServer, RealCluster
from tests.k8s.rendering import COMPONENTS, FOLDERS, K8S, render, rendered
from tests.kubernetes.launching import Launch
from xkd.config.presets import get_preset
from xkd.launch.kubernetes.config import NODE_TYPES, ClusterConfig
from xkd.launch.launcher import training_job

pytestmark = pytest.mark.apiserver

Manifests = tuple[dict[str, Any], ...]


def known(server: ApiServer, manifests: Manifests) -> list[dict[str, Any]]:
    """Return the manifests but for budgets of disruptions, if the server is older than their version."""
    versions = server.kubectl("api-versions").stdout.split()
    unknown = {each["apiVersion"] for each in manifests} - set(versions)
    assert unknown <= {"policy/v1"}
    return [each for each in manifests if each["apiVersion"] not in unknown]


def dropped(sent: object, kept: object, path: str = "") -> list[str]:
    """Return the fields that a server did not keep as they were sent; it may add fields and items."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        return [name for key in sent for name in dropped(sent[key], kept.get(key), f"{path}.{key}")]
    if isinstance(sent, list) and isinstance(kept, list) and len(sent) <= len(kept):
        items = enumerate(zip(sent, kept, strict=False))
        return [name for index, pair in items for name in dropped(*pair, f"{path}[{index}]")]
    return [] if sent == kept else [path]


def try_out(server: ApiServer, manifests: Sequence[dict[str, Any]]) -> list[str]:
    """Let the server validate manifests as if it stored them; return the fields that it would drop."""
    # Where nothing is: a claim cannot be changed to that of another overlay.
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "empty"}})
    namespace = {"namespace": "empty"}
    moved = [
        {**each, "metadata": {**each["metadata"], **(namespace if "namespace" in each["metadata"] else {})}}
        for each in manifests
    ]
    options = ("--dry-run=server", "--validate=false", "--output=json", "--filename=-")
    tried = server.kubectl("apply", *options, manifests=moved)
    assert tried.returncode == 0, tried.stderr
    kept = json.loads(tried.stdout)
    return dropped(moved, kept["items"] if kept["kind"] == "List" else [kept])


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_server_accepts_every_folder(apiserver: ApiServer, folder: str) -> None:
    assert try_out(apiserver, known(apiserver, rendered(folder))) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_server_accepts_every_component(apiserver: ApiServer, component: str, tmp_path: Path) -> None:
    paths = {"resources": ["base"], "components": [component]}
    kustomization = {key: [os.path.relpath(K8S / path, tmp_path) for path in paths[key]] for key in paths}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    assert try_out(apiserver, known(apiserver, render(tmp_path))) == []


def test_the_server_accepts_budgets_of_disruptions(apiserver: ApiServer) -> None:
    if "policy/v1" not in apiserver.kubectl("api-versions").stdout.split():
        pytest.skip("this server is older than policy/v1 (Kubernetes 1.21), the manifests are for 1.27")
    budgets = [each for each in rendered("overlays/v100") if each["apiVersion"] == "policy/v1"]
    assert try_out(apiserver, budgets) == []


def test_the_server_drops_an_unknown_field(apiserver: ApiServer) -> None:
    (queue,) = (each for each in rendered("base") if each["kind"] == "Queue")
    assert try_out(apiserver, [queue | {"spec": queue["spec"] | {"wieght": 1}}]) == ["[0].spec.wieght"]


def test_an_overlay_that_is_applied_again_changes_nothing(apiserver: ApiServer) -> None:
    again = apiserver.kubectl("apply", "-k", str(K8S / "overlays/local"))
    assert again.returncode == 0, again.stderr
    assert {line.rpartition(" ")[2] for line in again.stdout.splitlines()} == {"unchanged"}


@pytest.mark.parametrize("node_type", NODE_TYPES)
def test_the_server_accepts_the_job_of_each_node_type_and_its_pods(real: RealCluster, node_type: str) -> None:
    config = ClusterConfig(nodes=2, node_type=node_type, namespace="kubeflow", image_pull_secrets=("hub",))
    job = training_job(get_preset("paper"), Path("runs/data"), Path("runs/mine"), config, "r1")
    manifest = job.manifest("s", {"gpu-3", "gpu-7"})
    assert try_out(real.server, [manifest]) == []
    for task in manifest["spec"]["tasks"]:
        pod = task["template"] | {"metadata": task["template"]["metadata"] | {"name": "pod"}}
        accepted = real.core.create_namespaced_pod(real.namespace, pod, dry_run="All")
        assert dropped(pod, client.ApiClient().sanitize_for_serialization(accepted)) == []


def test_a_cluster_without_volcano_is_one_line(
    real: RealCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with ApiServer(tmp_path / "empty") as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig", "admin", "default")))
        said = str(Launch().end())
    assert said == "the cluster has no Volcano jobs (404 Not Found); install Volcano"
