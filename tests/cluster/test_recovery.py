"""Launchers that outlive their API server, its memory of changes, and their own credentials."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kubernetes import watch
from kubernetes.client.rest import ApiException

from tests.cluster.apiserver import LAUNCHER, RealCluster
from tests.kubernetes.launching import HEALTHY, IN_A_POD, QUICK, Command, Shown, complete, report, started
from tests.waiting import until
from xkd.launch.kubernetes import client
from xkd.rundir import Verdict

pytestmark = pytest.mark.apiserver


@pytest.fixture(autouse=True)
def _patient(real: RealCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let launchers wait for a server that starts."""
    monkeypatch.setattr(client, "POLL_POLICY", replace(QUICK, patience=60.0))


def test_a_server_that_restarts_does_not_end_a_launcher(
    real: RealCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher, shown = started(real), Shown(capsys)
    shown.wait("Running\n")
    real.stop()
    shown.wait("a request to the Kubernetes API failed (")
    real.resume()
    complete(real)
    assert launcher.end() == Verdict(**HEALTHY)
    assert real.submitted == 1


@pytest.fixture
def mounted(real: RealCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the kubelet mounts into a pod, for launchers in one."""
    address = urlsplit(real.server.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(real.server.certificate.read_bytes())
    (folder / "namespace").write_text(real.namespace)
    return folder


def token_of_a_pod(cluster: RealCluster, name: str) -> str:
    """Return the token of a new pod of the launchers' account, which is valid while the pod exists."""
    spec = {"serviceAccountName": LAUNCHER, "automountServiceAccountToken": False}
    spec |= {"containers": [{"name": "main", "image": "xkd:1"}]}
    pod = cluster.core.create_namespaced_pod(cluster.namespace, {"metadata": {"name": name}, "spec": spec})
    bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": pod.metadata.uid}
    return cluster.server.token(LAUNCHER, boundObjectRef=bound)


def test_a_token_that_is_replaced_after_it_ended_does_not_end_a_launcher(
    real: RealCluster, command: Callable[..., Command], mounted: Path
) -> None:
    """The client reads the file again once a minute."""
    (mounted / "token").write_text(token_of_a_pod(real, "launcher-1"))
    before = ["unshare", "--map-root-user", "--mount", "sh", "-e", "-c", IN_A_POD, str(mounted)]
    launcher = command("r1", before=before, policy=replace(QUICK, longest=1.0, patience=120.0))
    real.core.delete_namespaced_pod("launcher-1", real.namespace, grace_period_seconds=0)
    launcher.wait("a request to the Kubernetes API failed (Unauthorized); retrying")
    (mounted / "token").write_text(token_of_a_pod(real, "launcher-2"))
    complete(real)
    assert launcher.end(timeout=120) == 0, launcher.said


def test_logs_that_cannot_be_read_do_not_end_a_launcher(real: RealCluster) -> None:
    def answers() -> list[int]:
        requests = real.requests("ResponseComplete")
        logs = [each for each in requests if each["objectRef"].get("subresource") == "log"]
        return [each["responseStatus"]["code"] for each in logs]

    launcher = started(real)
    until(lambda: 204 in answers())  # the pod has no node
    name = f"{real.name}-train-0-0"
    binding = {"metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": "lost"}}
    # The client cannot read the response.
    real.core.create_namespaced_pod_binding(name, real.namespace, binding, _preload_content=False)
    count = len(answers())
    until(lambda: 404 in answers()[count:])  # its node is lost
    complete(real)
    assert launcher.end() == Verdict(**HEALTHY)


def watches(cluster: RealCluster) -> list[str]:
    """Return the versions since which launchers watched pods; "" where from the pods as they were."""
    uris = [each["requestURI"] for each in cluster.requests() if each["verb"] == "watch"]
    found = [re.search(r"resourceVersion=(\d*)", uri) for uri in uris]
    return [match[1] if match else "" for match in found]


def test_a_quiet_watch_keeps_up_with_the_server(
    real: RealCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_WATCH_SECONDS", 4)
    launcher = started(real)
    token_of_a_pod(real, "other")
    version = real.core.read_namespaced_pod("other", real.namespace).metadata.resource_version
    until(lambda: watches(real)[-1:] == [version])
    complete(real)
    assert launcher.end() == Verdict(**HEALTHY)


def test_a_version_that_the_server_has_forgotten_does_not_end_the_watch(
    real: RealCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_WATCH_SECONDS", 3)
    real.stop()
    real.server.start({"watch-cache-sizes": "pods#0"})  # no memory of its own, and no bookmarks
    launcher, shown = started(real), Shown(capsys)
    until(lambda: any(watches(real)))
    forgotten = watches(real)[-1]
    for number in range(3):
        real.core.create_namespaced_config_map(real.namespace, {"metadata": {"name": f"other-{number}"}})
    real.server.compact()
    options = {"resource_version": forgotten, "timeout_seconds": 1}
    with pytest.raises(ApiException, match="410"):
        list(watch.Watch().stream(real.core.list_namespaced_pod, real.namespace, **options))
    count = len(watches(real))
    until(lambda: "" in watches(real)[count:])
    # Only a watch sees a pod that is deleted as soon as it has ended.
    real.end_pod(1, 75, report("Interrupted: saved at step 9", 75))
    real.restart()
    shown.wait("Interrupted: saved at step 9")
    real.start()
    complete(real)
    assert launcher.end() == Verdict(**HEALTHY)
    real.stop()
    real.resume()
