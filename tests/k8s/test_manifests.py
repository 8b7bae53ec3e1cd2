"""The manifests that kubectl renders from k8s/: valid, secure, consistent with the code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.k8s.rendering import (
    COMPONENTS,
    FOLDERS,
    K8S,
    LAUNCHER,
    NAMESPACES,
    OVERLAYS,
    TASK,
    TRAINING,
    of_kind,
    render,
    rendered,
    selects,
    skip_module_without_kubectl,
)
from tests.k8s.schemas import is_custom, validate
from tests.k8s.security import flaws
from tests.k8s.test_monitoring import RULE_TESTS
from xkd.config.presets import get_preset

skip_module_without_kubectl()
each_folder = pytest.mark.parametrize("folder", FOLDERS)
QUEUE_WITHOUT_NAMESPACE = yaml.safe_load((K8S / "kubeflow/kustomization.yaml").read_text())["transformers"][0]
each_overlay = pytest.mark.parametrize("folder", OVERLAYS)


def test_every_kustomization_is_rendered_by_these_tests() -> None:
    there = {str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml")}
    assert there == {*FOLDERS, *COMPONENTS, "argo"}


@each_folder
def test_every_file_is_used(folder: str) -> None:
    kustomization = yaml.safe_load((K8S / folder / "kustomization.yaml").read_text())
    there = {path.name for path in (K8S / folder).glob("*.yaml")} - {"kustomization.yaml", *RULE_TESTS}
    assert there == {name for name in kustomization["resources"] if name.endswith(".yaml")}


@pytest.mark.parametrize(
    ("folder", "component"),
    [
        *(("base", component) for component in COMPONENTS),
        # The overlays include the component kubeflow.
        *((o, c) for o in ("overlays/v100", "overlays/profile") for c in COMPONENTS if c != "kubeflow"),
    ],
)
def test_components_are_valid_on_top_of_any_folder(folder: str, component: str, tmp_path: Path) -> None:
    namespace = "kubeflow" if component == "kubeflow" else NAMESPACES[folder]
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(K8S / folder, tmp_path)],
        "components": [os.path.relpath(K8S / component, tmp_path)],
    }
    if folder != "base":
        # As docs/kubernetes.md says: a component has the base's namespace.
        overlay["namespace"] = namespace
        overlay["transformers"] = [QUEUE_WITHOUT_NAMESPACE]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    manifests = render(tmp_path)
    assert len(manifests) >= len(rendered(folder)) - 1
    for manifest in manifests:
        validate(manifest)
        assert flaws(manifest) == []
        expected = None if manifest["kind"] in ("Namespace", "Queue") else namespace
        assert manifest["metadata"].get("namespace") == expected


@each_folder
def test_builtin_kinds_are_valid(folder: str) -> None:
    for manifest in rendered(folder):
        if not is_custom(manifest):
            validate(manifest)


@each_folder
def test_custom_kinds_are_valid(folder: str) -> None:
    custom = [manifest for manifest in rendered(folder) if is_custom(manifest)]
    assert custom
    for manifest in custom:
        validate(manifest)


@each_folder
def test_no_manifest_has_a_security_flaw(folder: str) -> None:
    assert [flaw for manifest in rendered(folder) for flaw in flaws(manifest)] == []


@pytest.mark.parametrize(("folder", "namespace"), NAMESPACES.items())
def test_every_resource_is_in_one_namespace(folder: str, namespace: str) -> None:
    for manifest in rendered(folder):
        expected = None if manifest["kind"] in ("Namespace", "Queue") else namespace
        assert manifest["metadata"].get("namespace") == expected, manifest["metadata"]["name"]


@each_overlay
def test_an_overlay_does_not_own_the_namespace_of_kubeflow(folder: str) -> None:
    assert of_kind(folder, "Namespace") == {}


def test_the_namespace_of_the_base_enforces_pod_security() -> None:
    (namespace,) = of_kind("base", "Namespace").values()
    levels = {
        mode: namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"]
        for mode in ("enforce", "warn", "audit")
    }
    assert levels == {"enforce": "baseline", "warn": "restricted", "audit": "restricted"}
    assert namespace["metadata"]["name"] == "xkd"


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_a_launcher_has_exactly_the_permissions_it_uses(folder: str) -> None:
    (role,) = of_kind(folder, "Role").values()
    rights = {
        f"{group}/{resource}": set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rights == {
        "batch.volcano.sh/jobs": {"get", "list", "create", "patch", "delete"},
        "argoproj.io/workflows": {"list"},
        "/pods": {"list", "watch"},
        "/pods/log": {"get"},
    }
    (binding,) = of_kind(folder, "RoleBinding").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [(subject["name"], subject["namespace"]) for subject in binding["subjects"]] == [
        ("xkd-launcher", role["metadata"]["namespace"]),
        ("default-editor", "team") if folder == "overlays/profile" else ("pipeline-runner", "kubeflow"),
    ]
    assert set(of_kind(folder, "ServiceAccount")) == {"xkd-launcher", "xkd-train"}


def test_the_overlays_set_storage_and_capacity() -> None:
    (local,), (v100,), _ = (of_kind(folder, "PersistentVolumeClaim").values() for folder in OVERLAYS)
    assert local["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert "storageClassName" not in local["spec"]
    assert v100["spec"]["accessModes"] == ["ReadWriteMany"]
    assert v100["spec"]["storageClassName"]
    queues = {folder: of_kind(folder, "Queue")["xkd"]["spec"] for folder in OVERLAYS}
    assert queues["overlays/v100"]["capability"]["nvidia.com/gpu"] == "16"
    for queue in queues.values():
        assert "pods" in queue["capability"]
        assert queue["reclaimable"] is False


def test_training_pods_cannot_be_evicted_voluntarily() -> None:
    budgets = of_kind("overlays/v100", "PodDisruptionBudget")
    for name, pod in (("xkd-training", TRAINING), ("xkd-launcher", LAUNCHER)):
        spec = budgets[name]["spec"]
        assert spec["minAvailable"] >= 1000
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert [selects(spec["selector"], labels) for labels in (TRAINING, LAUNCHER, TASK)] == [
            pod is TRAINING,
            pod is LAUNCHER,
            False,
        ]


def test_argo_retries_failed_pods_of_tasks_that_ask_for_it_alone(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "workflow-controller-configmap", "namespace": "kubeflow"},
        "data": {"workflowDefaults": "spec: {}", "executor": "imagePullPolicy: IfNotPresent"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    overlay = {"resources": ["config.yaml"], "components": [os.path.relpath(K8S / "argo", tmp_path)]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    (patched,) = render(tmp_path)
    validate(patched)
    assert patched["data"]["executor"] == config["data"]["executor"]  # type: ignore[index]
    defaults = yaml.safe_load(patched["data"]["workflowDefaults"])["spec"]
    # The limit of a task is the pipeline's; that of loops and conditions around it stays 0.
    assert defaults.pop("templateDefaults") == {"retryStrategy": {"limit": "0", "retryPolicy": "Always"}}
    # The patch replaces the whole text, of which the rest is Kubeflow's.
    ends = ("secondsAfterCompletion", "secondsAfterSuccess", "secondsAfterFailure")
    assert defaults == {"ttlStrategy": dict.fromkeys(ends, 3600)}


def test_prometheus_scrapes_the_first_pod_of_a_job_and_the_controller_of_volcano() -> None:
    """Volcano's values are those of its installer/volcano-development.yaml (docs/behavior.md)."""
    monitors = {name: monitor["spec"] for name, monitor in of_kind("monitoring", "PodMonitor").items()}
    (metrics,) = monitors["xkd"]["podMetricsEndpoints"]
    assert metrics["portNumber"] == get_preset("paper").run.metrics_port
    assert selects(monitors["xkd"]["selector"], TRAINING)
    assert not selects(monitors["xkd"]["selector"], TRAINING | {"torchx.pytorch.org/replica-id": "1"})
    volcano = monitors["xkd-volcano"]
    assert volcano["namespaceSelector"] == {"matchNames": ["volcano-system"]}
    assert selects(volcano["selector"], {"app": "volcano-controller"})
    (address,) = volcano["podMetricsEndpoints"][0]["relabelings"]
    assert (address["targetLabel"], address["replacement"]) == ("__address__", "$1:8081")


def test_alerts_link_to_one_published_runbook() -> None:
    """The URL is in one place, k8s/monitoring/runbook.yaml, which itself stays out of the cluster."""
    (rules,) = of_kind("monitoring", "PrometheusRule").values()
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    url = yaml.safe_load((K8S / "monitoring/runbook.yaml").read_text())["data"]["url"]
    assert url.startswith("https://")
    assert {alert["annotations"]["runbook_url"] for alert in alerts} == {
        f"{url}#{alert['alert'].lower()}" for alert in alerts
    }
    assert set(of_kind("monitoring", "ConfigMap")) == {"xkd-dashboards"}


def test_a_profile_has_its_own_account_claim_and_pull_secret() -> None:
    assert "xkd" in of_kind("overlays/profile", "PersistentVolumeClaim")
    accounts = of_kind("overlays/profile", "ServiceAccount")
    assert accounts["xkd-train"]["imagePullSecrets"] == [{"name": "registry"}]
    assert "default-editor" not in accounts  # Kubeflow's


def test_training_pods_have_no_istio_sidecar() -> None:
    pod = yaml.safe_load(Path("xkd/launch/kubernetes/pod.yaml").read_text())
    assert pod["labels"]["sidecar.istio.io/inject"] == "false"


@pytest.mark.parametrize(
    ("cloud", "addresses"),
    [
        ("gke", {("169.254.169.254/32", 80), ("169.254.169.252/32", 988)}),
        ("eks", {("169.254.170.23/32", 80), ("fd00:ec2::23/128", 80)}),
    ],
)
def test_only_tasks_may_ask_the_cloud_for_an_identity(cloud: str, addresses: set[tuple[str, int]]) -> None:
    policy = yaml.safe_load((K8S / "identity" / cloud / "network.yaml").read_text())["spec"]
    assert selects(policy["podSelector"], TASK)
    assert not selects(policy["podSelector"], TRAINING)
    assert policy["policyTypes"] == ["Egress"]
    assert {
        (peer["ipBlock"]["cidr"], port["port"])
        for rule in policy["egress"]
        for peer in rule["to"]
        for port in rule["ports"]
    } == addresses
