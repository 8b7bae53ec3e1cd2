"""Connections that the network policies allow, evaluated as Kubernetes does."""

from __future__ import annotations

import pytest

from tests.k8s.rendering import TASK, TRAINING, of_kind, selects, skip_module_without_kubectl

skip_module_without_kubectl()

HOME = {"kubernetes.io/metadata.name": "xkd"}
MONITORING = {"kubernetes.io/metadata.name": "monitoring"}
KUBEFLOW = {"kubernetes.io/metadata.name": "kubeflow"}
OUTSIDE: dict[str, str] = {}
"""An empty namespace is outside the cluster."""


def allowed(
    direction: str,
    pod: dict[str, str],
    port: int,
    namespace: dict[str, str],
    peer: dict[str, str],
    protocol: str = "TCP",
) -> bool:
    """Return whether the base's policies allow a pod's connections to, or from, a pod at a port."""
    others = {"ingress": "from", "egress": "to"}[direction]
    for policy in of_kind("base", "NetworkPolicy").values():
        given = policy["spec"]
        if direction.capitalize() not in given["policyTypes"] or not selects(given["podSelector"], pod):
            continue
        for rule in given.get(direction, []):
            ports = {(to["port"], to["protocol"]) for to in rule.get("ports", [])}
            peers = rule.get(others, [])
            matches = not peers or any(
                namespace
                and selects(other.get("namespaceSelector", {"matchLabels": HOME}), namespace)
                and selects(other.get("podSelector"), peer)
                for other in peers
            )
            if matches and (not ports or (port, protocol) in ports):
                return True
    return False


def test_policies_select_only_pods_of_xkd() -> None:
    policies = of_kind("base", "NetworkPolicy")
    for name, policy in policies.items():
        assert not selects(policy["spec"]["podSelector"], {"app": "ml-pipeline"}), name
    deny = policies["xkd-deny"]["spec"]
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    assert not {"ingress", "egress"} & deny.keys()
    assert selects(deny["podSelector"], TASK)
    assert selects(deny["podSelector"], TRAINING)


@pytest.mark.parametrize(
    ("direction", "pod", "port", "namespace", "peer", "expected"),
    [
        pytest.param("egress", TRAINING, 29400, HOME, TRAINING, True, id="rendezvous, out"),
        pytest.param("egress", TRAINING, 45678, HOME, TRAINING, True, id="NCCL, out"),
        pytest.param("ingress", TRAINING, 29400, HOME, TRAINING, False, id="in: that is Volcano's policy"),
        pytest.param("egress", TRAINING, 29400, HOME, TASK, False, id="to no other pod"),
        pytest.param("egress", TRAINING, 29400, KUBEFLOW, TRAINING, False, id="nor to another namespace's"),
        pytest.param("ingress", TRAINING, 9460, MONITORING, {}, True, id="Prometheus scrapes"),
        pytest.param("ingress", TRAINING, 9460, HOME, TASK, False, id="nobody else does"),
        pytest.param("ingress", TRAINING, 22, MONITORING, {}, False, id="and at no other port"),
        pytest.param("ingress", TASK, 8080, HOME, TASK, False, id="nobody reaches a task"),
        pytest.param("egress", TASK, 443, OUTSIDE, {}, True, id="object store"),
        pytest.param("egress", TRAINING, 443, OUTSIDE, {}, True, id="object store, training"),
        pytest.param("egress", TRAINING, 9000, HOME, {"app": "minio"}, True, id="object store, inside"),
        pytest.param("egress", TASK, 8333, KUBEFLOW, {"app": "seaweedfs"}, True, id="KFP's object store"),
        pytest.param("egress", TASK, 9000, OUTSIDE, {}, False, id="those are not outside"),
        pytest.param("egress", TRAINING, 8333, OUTSIDE, {}, False, id="nor for training"),
        pytest.param("egress", TASK, 80, OUTSIDE, {}, False, id="no identity of the node"),
        pytest.param("egress", TASK, 6443, OUTSIDE, {}, True, id="a task launches"),
        pytest.param("egress", TRAINING, 6443, OUTSIDE, {}, False, id="a training pod does not"),
        pytest.param("egress", TASK, 8887, KUBEFLOW, {"app": "ml-pipeline"}, True, id="KFP's API"),
        pytest.param(
            "egress", TRAINING, 8887, KUBEFLOW, {"app": "ml-pipeline"}, False, id="not for training"
        ),
        pytest.param(
            "egress", TASK, 8080, KUBEFLOW, {"component": "metadata-grpc-server"}, True, id="KFP's metadata"
        ),
        pytest.param("egress", TASK, 3306, KUBEFLOW, {"app": "mysql"}, False, id="not KFP's database"),
        pytest.param("egress", TASK, 9091, MONITORING, {}, True, id="Pushgateway"),
        pytest.param("egress", TASK, 9093, MONITORING, {}, False, id="not Alertmanager"),
    ],
)
def test_only_needed_connections_are_allowed(
    direction: str,
    pod: dict[str, str],
    port: int,
    namespace: dict[str, str],
    peer: dict[str, str],
    expected: bool,
) -> None:
    assert allowed(direction, pod, port, namespace, peer) is expected


@pytest.mark.parametrize("pod", [TASK, TRAINING], ids=["task", "training"])
@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_every_pod_may_resolve_names(pod: dict[str, str], protocol: str) -> None:
    assert allowed("egress", pod, 53, OUTSIDE, {}, protocol)
