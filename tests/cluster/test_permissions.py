"""What the accounts of the manifests may do, by the API server's own decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from kubernetes import client
from kubernetes.client.rest import ApiException

from tests.cluster.apiserver import LAUNCHER, ApiServer, RealCluster
from tests.k8s.rendering import of_kind, rendered
from tests.kubernetes.launching import HEALTHY, Launch, Shown, complete, started
from tests.waiting import until
from xkd.launch.kubernetes.submit import release
from xkd.rundir import Verdict

pytestmark = pytest.mark.apiserver

Rights = Mapping[tuple[str, str], set[str]]
"""Verbs of each group and resource."""
RBAC = ("Namespace", "ServiceAccount", "Role", "RoleBinding")
LAUNCHERS = [
    # The namespace of the jobs, the folder that made it, and the account with its namespace.
    ("xkd", "base", "xkd-launcher", "xkd"),
    ("xkd", "base", LAUNCHER, "kubeflow"),
    ("kubeflow", "overlays/local", "xkd-launcher", "kubeflow"),
    ("kubeflow", "overlays/local", LAUNCHER, "kubeflow"),
    ("team", "overlays/profile", "xkd-launcher", "team"),
    ("team", "overlays/profile", "default-editor", "team"),
]


@pytest.fixture
def all_accounts(apiserver: ApiServer) -> None:
    """Apply the roles of every folder, and create Kubeflow's accounts and one without any role."""
    for folder in ("base", "overlays/profile"):
        apiserver.apply(*(each for each in rendered(folder) if each["kind"] in RBAC))
    for name, namespace in (("default-editor", "team"), ("nobody", "kubeflow")):
        metadata = {"name": name, "namespace": namespace}
        apiserver.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


def rights(server: ApiServer, namespace: str, account: str, home: str) -> Rights:
    """Return what an account may do in a namespace, as the server tells the account itself."""
    api = client.AuthorizationV1Api(server.api(server.token(account, home)))
    status = api.create_self_subject_rules_review({"spec": {"namespace": namespace}}).status
    assert not status.incomplete
    found = defaultdict[tuple[str, str], set[str]](set)
    for rule in status.resource_rules:
        assert not rule.resource_names
        for group in rule.api_groups:
            for resource in rule.resources:
                found[group, resource] |= set(rule.verbs)
    return dict(found)


def role(folder: str) -> Rights:
    (role,) = of_kind(folder, "Role").values()
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


@pytest.mark.parametrize(("namespace", "folder", "account", "home"), LAUNCHERS)
def test_a_launcher_may_do_what_its_role_says_in_its_namespace_alone(
    apiserver: ApiServer, all_accounts: None, namespace: str, folder: str, account: str, home: str
) -> None:
    anyone = rights(apiserver, namespace, "nobody", "kubeflow")
    assert rights(apiserver, namespace, account, home) == {**anyone, **role(folder)}
    assert rights(apiserver, "kube-system", account, home) == anyone


@pytest.mark.parametrize("namespace", ["xkd", "kubeflow", "team"])
def test_a_training_pod_may_do_nothing(apiserver: ApiServer, all_accounts: None, namespace: str) -> None:
    for other in ("xkd", "kubeflow", "team", "kube-system"):
        anyone = rights(apiserver, other, "nobody", "kubeflow")
        assert rights(apiserver, other, "xkd-train", namespace) == anyone


def test_secrets_and_other_namespaces_are_out_of_reach(apiserver: ApiServer) -> None:
    core = client.CoreV1Api(apiserver.api(apiserver.token(LAUNCHER)))
    assert core.list_namespaced_pod("kubeflow").items == []
    with pytest.raises(ApiException, match="403"):
        core.list_namespaced_secret("kubeflow")
    with pytest.raises(ApiException, match="403"):
        core.create_namespaced_pod("kubeflow", {"metadata": {"name": "mine"}})
    with pytest.raises(ApiException, match="403"):
        core.list_namespaced_pod("team")


def used(cluster: RealCluster) -> Rights:
    """Return what launchers did, by the server's audit log."""
    answered = cluster.requests("ResponseComplete")
    assert {each["annotations"]["authorization.k8s.io/decision"] for each in answered} == {"allow"}
    found = defaultdict[tuple[str, str], set[str]](set)
    for request in cluster.requests():
        of = request["objectRef"]
        resource = "/".join(filter(None, (of["resource"], of.get("subresource"))))
        found[of.get("apiGroup", ""), resource].add(request["verb"])
    return dict(found)


def test_launchers_use_everything_that_their_role_permits(
    real: RealCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    first = started(real, run_id="r1")
    second = Launch(run_id="r2")  # labels the job
    until(lambda: real.job["metadata"]["labels"]["pipeline/runid"] == "r2")
    complete(real)
    assert first.end() == second.end() == Verdict(**HEALTHY)
    third = Launch(run_id="r2", out=Path("runs/other"))
    until(lambda: len(real.jobs) == 2)
    real.terminate("r2")
    assert len(release("r2")) == 1
    third.end()
    assert used(real) == role("overlays/local")


def test_an_account_without_the_role_is_named(
    real: RealCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = real.server.kubeconfig(tmp_path / "other", real.server.token("xkd-train"), real.namespace)
    monkeypatch.setenv("KUBECONFIG", str(path))
    said = str(Launch().end())
    assert said.startswith("permission denied by the cluster: jobs.batch.volcano.sh ")
    assert said.endswith(
        "; apply k8s/base to namespace kubeflow, and bind its role xkd-launcher to service account xkd-train "
        "of namespace kubeflow"
    )


def test_a_role_that_is_away_for_a_while_does_not_end_a_launcher(
    real: RealCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher, shown = started(real), Shown(capsys)
    (binding,) = of_kind("overlays/local", "RoleBinding").values()
    shown.wait("Running\n")
    client.RbacAuthorizationV1Api(real.server.api()).delete_namespaced_role_binding(
        binding["metadata"]["name"], real.namespace
    )
    shown.wait('cannot get resource "jobs"')
    real.server.apply(binding)
    complete(real)
    assert launcher.end() == Verdict(**HEALTHY)
