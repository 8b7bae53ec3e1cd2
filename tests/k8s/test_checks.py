"""The manifest checks of these tests, on invalid manifests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from tests.k8s.rendering import Manifest
from tests.k8s.schemas import validate
from tests.k8s.security import flaws


def pod(**changes: Any) -> Manifest:
    """Return a valid pod with changes."""
    context = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "train", "image": "xkd@sha256:" + 32 * "0a", "securityContext": own}
    spec: Manifest = {
        "serviceAccountName": "xkd-train",
        "automountServiceAccountToken": False,
        "securityContext": context,
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec | changes}


def job() -> Manifest:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod()["spec"]}
    spec = {"schedulerName": "volcano", "tasks": [{"name": "train-0", "replicas": 1, "template": template}]}
    return {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": {"name": "a"}, "spec": spec}


def role(**rule: list[str]) -> Manifest:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]} | rule]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "a"},
        "rules": rules,
    }


def with_container(**changes: Any) -> Manifest:
    made = pod()
    made["spec"]["containers"][0] |= changes
    return made


def with_context(**changes: Any) -> Manifest:
    made = pod()
    made["spec"]["containers"][0]["securityContext"] |= changes
    return made


def plain(kind: str, **content: Any) -> Manifest:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "xkd-train"}} | content


def test_valid_manifests_have_no_flaws() -> None:
    assert flaws(pod()) + flaws(job()) + flaws(role()) == []


@pytest.mark.parametrize(
    ("manifest", "flaw"),
    [
        (plain("Secret", data={}), "is a secret"),
        (plain("ConfigMap", data={"a": "-----BEGIN RSA PRIVATE KEY-----"}), "token at .data.a"),
        (plain("ConfigMap", data={"a": "x ghp_" + 36 * "a"}), "token"),
        (plain("ConfigMap", data={"a": "AKIA" + 16 * "A"}), "token"),
        (plain("ConfigMap", data={"a": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx"}), "token"),
        (plain("ConfigMap", data={"a": "s3://user:password@host/bucket"}), "token"),
        (plain("ConfigMap", data={"a": 20 * "a1B"}), "token"),
        (with_container(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]), "spelled out"),
        (plain("ServiceAccount"), "mounts its token"),
        (role(verbs=["*"]), "wildcard"),
        (role(apiGroups=["*"]), "wildcard"),
        (role(resources=["pods/*"]), "wildcard"),
        (role(resources=["secrets"]), "secrets"),
        (role(verbs=["bind"]), "further rights"),
        (role() | {"kind": "ClusterRole"}, "whole cluster"),
        (plain("RoleBinding", roleRef={"kind": "ClusterRole", "name": "cluster-admin"}), "cluster-admin"),
        (
            plain("RoleBinding", subjects=[{"kind": "Group", "name": "system:authenticated"}]),
            "system:authenticated",
        ),
        (pod(automountServiceAccountToken=True), "token"),
        (pod(securityContext={}), "root"),
        (with_context(runAsUser=0), "root"),
        (with_context(runAsNonRoot=False), "root"),
        (with_context(allowPrivilegeEscalation=True), "privileges"),
        (with_context(privileged=True), "privileges"),
        (with_context(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), "capabilities"),
        (with_context(capabilities={}), "capabilities"),
        (with_context(seccompProfile={"type": "Unconfined"}), "system calls"),
        (pod(hostNetwork=True), "hostNetwork"),
        (pod(volumes=[{"name": "a", "hostPath": {"path": "/"}}]), "of its node"),
        (pod(initContainers=[{"name": "first", "image": "a"}]), "container first"),
    ],
)
def test_a_flaw_is_found(manifest: Manifest, flaw: str) -> None:
    assert any(flaw in found for found in flaws(manifest)), flaws(manifest)


def test_a_flaw_of_a_deeply_nested_template_is_found() -> None:
    made = job()
    made["spec"]["tasks"][0]["template"]["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    assert len(flaws(made)) == 2  # privileges and capabilities; the pod's settings remain valid


def mistaken(change: Callable[[Manifest], Any]) -> Manifest:
    made = copy.deepcopy(job())
    change(made)
    return made


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda j: j.update(specs={}), id="an unknown field"),
        pytest.param(lambda j: j["metadata"].update(label={}), id="one of metadata"),
        pytest.param(lambda j: j["spec"].update(ttlSeconds=1), id="one of the job"),
        pytest.param(lambda j: j["spec"]["tasks"][0].update(retries=1), id="one of a task"),
        pytest.param(lambda j: j["spec"]["tasks"][0]["template"]["spec"].update(user=1), id="one of a pod"),
        pytest.param(lambda j: j["spec"].update(minAvailable="two"), id="a wrong type"),
        pytest.param(
            lambda j: j["spec"]["tasks"][0]["template"]["spec"].update(containers=[{}]), id="no name"
        ),
    ],
)
def test_an_invalid_field_of_a_job_is_found(change: Callable[[Manifest], Any]) -> None:
    validate(job())
    with pytest.raises(jsonschema.ValidationError):
        validate(mistaken(change))


@pytest.mark.parametrize(
    "spec", [{"weight": 0}, {"capability": {"cpu": 4}}, {"capability": {"cpu": "four"}}, {"capacity": {}}]
)
def test_an_invalid_field_of_a_queue_is_found(spec: Manifest) -> None:
    queue = {"apiVersion": "scheduling.volcano.sh/v1beta1", "kind": "Queue", "metadata": {"name": "a"}}
    validate(queue | {"spec": {"weight": 1, "capability": {"cpu": "4"}}})
    with pytest.raises(jsonschema.ValidationError):
        validate(queue | {"spec": spec})


def test_an_invalid_field_of_a_builtin_kind_is_found() -> None:
    validate(pod())
    for wrong in (
        pod(hostNet=True),
        pod(containers=[]) | {"spec": {}},
        plain("ServiceAccount", automount=False),
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate(wrong)
