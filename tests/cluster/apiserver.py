"""A real API server with etcd, role-based access control and the accounts of the product's own manifests.

`tests/cluster/build_apiserver.sh` builds it. There are no controllers and no kubelets: tests act as these.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from tests.k8s.rendering import rendered
from tests.k8s.schemas import SCHEMAS
from tests.kubernetes.cluster import Cluster, write_kubeconfig
from tests.ports import free_port
from tests.waiting import until

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
PROGRAMS = Path(os.environ.get("XKD_APISERVER") or CACHE / "xkd" / "apiserver")
NAMESPACE = "kubeflow"
LAUNCHER = "pipeline-runner"
"""The account of pipeline tasks in standalone Kubeflow Pipelines, which creates it."""
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}],
}
_DEFINITIONS = (*SCHEMAS.glob("*_*.yaml"), Path(__file__).with_name("definitions.yaml"))
"""Of custom kinds."""
_JOBS = {"group": "batch.volcano.sh", "version": "v1alpha1", "plural": "jobs"}
_ARGO = {"group": "argoproj.io", "version": "v1alpha1", "plural": "workflows"}


class ApiServer:
    """etcd and kube-apiserver, whose state outlives the latter."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._etcd_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self.certificate = folder / "certificates" / "apiserver.crt"
        self.audit = folder / "audit.log"
        self.audit.touch()
        self._log = (folder / "log").open("a")
        (folder / "tokens.csv").write_text("admin,admin,admin,system:masters\n")
        (folder / "audit.yaml").write_text(yaml.safe_dump(_AUDIT))
        command = ["openssl", "genrsa", "-out", str(folder / "key.pem"), "2048"]
        subprocess.run(command, check=True, capture_output=True)
        self._etcd = self._run(
            "etcd",
            {
                "data-dir": folder / "etcd",
                "listen-client-urls": f"http://127.0.0.1:{self._etcd_port}",
                "advertise-client-urls": f"http://127.0.0.1:{self._etcd_port}",
                "listen-peer-urls": "http://127.0.0.1:0",
            },
        )
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> ApiServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._etcd.kill()
        self._etcd.wait()
        self._log.close()

    def start(self, options: Mapping[str, object] = MappingProxyType({})) -> None:
        """Start kube-apiserver, also with other options, and wait until it is ready."""
        self._server = self._run(
            "kube-apiserver",
            {
                "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
                "bind-address": "127.0.0.1",
                "advertise-address": "127.0.0.1",
                "secure-port": self._port,
                "cert-dir": self.certificate.parent,
                "authorization-mode": "RBAC",
                "token-auth-file": self._folder / "tokens.csv",
                "service-account-issuer": self.url,
                "service-account-key-file": self._folder / "key.pem",
                "service-account-signing-key-file": self._folder / "key.pem",
                "service-cluster-ip-range": "10.0.0.0/24",
                "audit-policy-file": self._folder / "audit.yaml",
                "audit-log-path": self.audit,
                **options,
            },
        )
        until(self._is_ready)

    def stop(self) -> None:
        """Kill kube-apiserver."""
        assert self._server
        self._server.kill()
        self._server.wait()

    def compact(self) -> None:
        """Make etcd forget every version of an object but the newest."""
        revision = self._ask_etcd("range", {"key": "AA=="})["header"]["revision"]
        self._ask_etcd("compaction", {"revision": revision})

    def api(self, token: str = "admin") -> client.ApiClient:
        """Return a client; the administrator's, if no token is given."""
        configuration = client.Configuration()
        configuration.host, configuration.ssl_ca_cert = self.url, str(self.certificate)
        configuration.retries = False
        configuration.api_key["authorization"] = f"Bearer {token}"
        return client.ApiClient(configuration)

    def kubeconfig(self, path: Path, token: str, namespace: str) -> Path:
        """Write a kubeconfig with a token; return its path."""
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        return write_kubeconfig(path, cluster, {"token": token}, namespace)

    def kubectl(self, *words: str, manifests: object = ()) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, with manifests as its input."""
        flags = [f"--server={self.url}", f"--certificate-authority={self.certificate}", "--token=admin"]
        return subprocess.run(
            ["kubectl", *flags, *words],
            input=yaml.safe_dump_all(manifests),
            env=os.environ | {"KUBECONFIG": "/dev/null"},
            capture_output=True,
            text=True,
            check=False,
        )

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests."""
        applied = self.kubectl("apply", "-f", "-", manifests=manifests)
        assert applied.returncode == 0, applied.stderr

    def token(self, account: str, namespace: str = NAMESPACE, **spec: Any) -> str:
        """Return a token of a service account for an hour, as the kubelet requests it for a pod."""
        body = {"spec": {"audiences": [self.url], "expirationSeconds": 3600, **spec}}
        create = client.CoreV1Api(self.api()).create_namespaced_service_account_token
        return str(create(account, namespace, body).status.token)

    def _is_ready(self) -> bool:
        assert self._server
        assert self._server.poll() is None, (self._folder / "log").read_text()[-3000:]
        with suppress(ApiException, HTTPError, OSError):  # the certificate may not be there yet
            self.api().call_api("/readyz", "GET", auth_settings=["BearerToken"], _request_timeout=5)
            return True
        return False

    def _ask_etcd(self, method: str, body: dict[str, Any]) -> Any:
        url = f"http://127.0.0.1:{self._etcd_port}/v3/kv/{method}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as response:
            return json.load(response)

    def _run(self, program: str, options: Mapping[str, object]) -> subprocess.Popen[bytes]:
        words = [f"--{name}={value}" for name, value in options.items()]
        return subprocess.Popen([PROGRAMS / program, *words], stdout=self._log, stderr=self._log)


@contextmanager
def serve(folder: Path) -> Iterator[ApiServer]:
    """Start a server with the custom kinds, the overlay of a laptop and Kubeflow's account of tasks."""
    if not (PROGRAMS / "kube-apiserver").exists():
        pytest.skip(f"no kube-apiserver in {PROGRAMS}: run tests/cluster/build_apiserver.sh")
    with ApiServer(folder) as server:
        kinds = [kind for file in _DEFINITIONS for kind in yaml.safe_load_all(file.read_text())]
        # kubectl's annotation with the last applied content would be too long.
        created = server.kubectl("create", "-f", "-", manifests=kinds)
        assert created.returncode == 0, created.stderr
        names = [kind["metadata"]["name"] for kind in kinds]
        waited = server.kubectl("wait", "--for=condition=Established", "crd", *names)
        assert waited.returncode == 0, waited.stderr
        for name in (NAMESPACE, "team"):
            server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        account = {"name": LAUNCHER, "namespace": NAMESPACE}
        server.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        server.apply(*rendered("overlays/local"))
        yield server


class RealCluster(Cluster):
    """Kubeflow's namespace on a real server, where a thread deletes what deleted jobs own."""

    namespace = NAMESPACE

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        api = server.api()
        self.core, self._custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
        self._begin = server.audit.stat().st_size
        self._done = threading.Event()
        self._collector = threading.Thread(target=self._collect_garbage, daemon=True)

    def __enter__(self) -> RealCluster:
        self._collector.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._collector.join()
        self.delete_pods()
        for name in self.jobs:
            self.delete_job(name)
        self._custom.delete_collection_namespaced_custom_object(**_ARGO, namespace=self.namespace)

    def kubeconfig(self, folder: Path) -> Path:
        return self.server.kubeconfig(folder / "kubeconfig", self.server.token(LAUNCHER), self.namespace)

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        found = self._custom.list_namespaced_custom_object(**_JOBS, namespace=self.namespace)
        return {job["metadata"]["name"]: job for job in found["items"]}

    @property
    def submitted(self) -> int:
        return sum(
            request["verb"] == "create"
            and request["objectRef"]["resource"] == "jobs"
            and request["responseStatus"]["code"] == 201
            for request in self.requests("ResponseComplete")
        )

    def requests(self, stage: str = "RequestReceived") -> list[dict[str, Any]]:
        """Return the requests of service accounts since the cluster was entered, as audited at a stage."""
        with self.server.audit.open() as log:
            log.seek(self._begin)
            audited = [json.loads(line) for line in log if line.endswith("\n")]  # the last may be incomplete
        return [request for request in audited if request["stage"] == stage]

    def set_status(self, status: dict[str, Any]) -> None:
        replace = self._custom.patch_namespaced_custom_object_status
        replace(**_JOBS, namespace=self.namespace, name=self.name, body={"status": status})

    def set_pod(self, name: str, template: dict[str, Any], status: dict[str, Any]) -> None:
        if name not in {pod.metadata.name for pod in self.core.list_namespaced_pod(self.namespace).items}:
            self.core.create_namespaced_pod(self.namespace, self._pod(name, template))
        # A strategic merge would keep a condition that is gone.
        body = [{"op": "replace", "path": "/status", "value": status}]
        self.core.patch_namespaced_pod_status(name, self.namespace, body)

    def _pod(self, name: str, template: dict[str, Any]) -> dict[str, Any]:
        job = self.job["metadata"]
        owner = {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "controller": True}
        owner |= {"name": job["name"], "uid": job["uid"], "blockOwnerDeletion": True}
        labels = {**template["metadata"]["labels"], "volcano.sh/job-name": job["name"]}
        metadata = {"name": name, "labels": labels, "ownerReferences": [owner]}
        return {"metadata": metadata, "spec": template["spec"]}

    def delete_pods(self) -> None:
        for pod in self.core.list_namespaced_pod(self.namespace).items:
            self._delete_pod(pod.metadata.name)

    def delete_job(self, name: str) -> None:
        location = {**_JOBS, "namespace": self.namespace, "name": name}
        self._custom.delete_namespaced_custom_object(**location)
        with suppress(ApiException):  # it had none
            self._release(name)

    def add_workflow(self, labels: dict[str, str], spec: dict[str, Any]) -> None:
        metadata = {"generateName": "run-", "labels": labels}
        body = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": spec}
        self._custom.create_namespaced_custom_object(**_ARGO, namespace=self.namespace, body=body)

    def stop(self) -> None:
        self.server.stop()

    def resume(self) -> None:
        self.server.start()

    def _collect_garbage(self) -> None:
        """Delete the pods of jobs that wait for that, as Kubernetes' garbage collector does."""
        while not self._done.wait(0.1):
            with suppress(ApiException, HTTPError):
                for name, job in ({} if self.stuck else self.jobs).items():
                    if "deletionTimestamp" in job["metadata"]:
                        label = f"volcano.sh/job-name={name}"
                        for pod in self.core.list_namespaced_pod(self.namespace, label_selector=label).items:
                            self._delete_pod(pod.metadata.name)
                        self._release(name)

    def _delete_pod(self, name: str) -> None:
        # Without a kubelet, nobody would confirm that its containers ended.
        self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    def _release(self, name: str) -> None:
        """Remove what holds up a job's deletion."""
        body = {"metadata": {"finalizers": None}}
        self._custom.patch_namespaced_custom_object(**_JOBS, namespace=self.namespace, name=name, body=body)
