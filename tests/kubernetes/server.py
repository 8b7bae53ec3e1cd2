"""A fake Kubernetes API server with the requests that a launcher makes, which can fail as no real one would.

It keeps jobs and pods, and validates posted jobs as an API server would: the schema (where Volcano's is
available), the name, the namespace.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.k8s.schemas import validate
from tests.kubernetes.cluster import Cluster, now, write_kubeconfig

_JOBS = re.compile(r"/apis/batch\.volcano\.sh/v1alpha1/namespaces/([^/]+)/jobs(?:/([^/]+))?$")
_WORKFLOWS = re.compile(r"/apis/argoproj\.io/v1alpha1/namespaces/([^/]+)/workflows$")
_PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods(?:/([^/]+)(/log)?)?$")

Answer = tuple[int, dict[str, Any]]


class FakeCluster(Cluster):
    """The state of the server; tests change it while launchers poll.

    Args:
        certificate: a file with a key and its certificate, for TLS; None: none.
    """

    namespace = "research"

    def __init__(self, certificate: Path | None = None) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.workflows: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        """Every pod after each of its changes."""
        self.logs: dict[str, list[tuple[str, str]]] = {}
        """Lines of each pod: time and text."""
        self.requests: list[str] = []
        self.faults: list[Callable[[BaseHTTPRequestHandler], bool]] = []
        """Each may replace the response to one request (by returning True), and is then removed."""
        self.log_breaks_every = 10_000
        """Number of log lines after which the connection breaks; a new connection may repeat lines."""
        self.log_broken = 0
        self.is_away = False
        """Whether every request fails."""
        self.token = ""
        """The only token that the server accepts; empty: it accepts every request."""
        self._jobs: dict[str, dict[str, Any]] = {}
        self._submitted = 0
        self._certificate, self.port = certificate, 0
        self._listen()

    def _listen(self) -> None:
        """Serve on the same port as before, if any."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.cluster, self.port = self, self._server.server_port
        if self._certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate)
            # The handshake belongs to the thread of the connection, not to that which accepts all of them.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def kubeconfig(self, folder: Path) -> Path:
        server = {"server": f"http://127.0.0.1:{self.port}"}
        return write_kubeconfig(folder / "kubeconfig", server, {}, self.namespace)

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        return self._jobs

    @property
    def submitted(self) -> int:
        return self._submitted

    def set_status(self, status: dict[str, Any]) -> None:
        self.job["status"] = status

    def set_pod(self, name: str, template: dict[str, Any], status: dict[str, Any]) -> None:
        labels = {**template["metadata"]["labels"], "volcano.sh/job-name": self.name}
        metadata = {"name": name, "labels": labels, "resourceVersion": str(len(self.changes) + 1)}
        self.pods[name] = {"metadata": metadata, "spec": template["spec"], "status": status}
        self.changes.append(deepcopy(self.pods[name]))
        self.logs.setdefault(name, [])

    def delete_pods(self) -> None:
        self.pods.clear()

    def delete_job(self, name: str) -> None:
        del self._jobs[name]

    def add_workflow(self, labels: dict[str, str], spec: dict[str, Any]) -> None:
        self.workflows.append({"metadata": {"labels": labels}, "spec": spec})

    def stop(self) -> None:
        self.is_away = True  # for connections that are open
        self._close()

    def resume(self) -> None:
        self.is_away = False
        self._listen()

    def add_job(self, job: dict[str, Any]) -> None:
        """Create a job, as a launcher asks."""
        job["metadata"]["creationTimestamp"] = now()
        self._jobs[job["metadata"]["name"]] = job
        self._submitted += 1

    def say(self, text: str, number: int = 0) -> None:
        """Log a line of a pod."""
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        self.logs[f"{self.name}-train-{number}-0"].append((when, text))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    cluster: FakeCluster

    def handle_error(self, *_: object) -> None:
        """Log nothing: clients may close connections early."""


def refused(code: int, message: str) -> Answer:
    reasons = {401: "Unauthorized", 404: "NotFound", 409: "AlreadyExists", 403: "Forbidden", 422: "Invalid"}
    return code, {
        "kind": "Status",
        "status": "Failure",
        "message": message,
        "code": code,
        "reason": reasons.get(code, "InternalError"),
        "details": {"name": "job"},
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def cluster(self) -> FakeCluster:
        cluster: FakeCluster = self.server.cluster  # type: ignore[attr-defined]
        return cluster

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PATCH(self) -> None:
        self._answer(self._patch)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def _answer(self, method: Callable[[], Answer | None]) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length) or b"null")
        path = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(path.query).items()}
        authorization = self.headers.get("Authorization", "").lower()  # kubernetes writes "bearer" in a pod
        if self.cluster.token and authorization != f"bearer {self.cluster.token}":
            self.reply(*refused(401, "Unauthorized"))
            return
        self.cluster.requests.append(f"{self.command} {path.path}")
        if self.cluster.is_away:
            self.reply(*refused(500, "no leader"))
            return
        for fault in self.cluster.faults:
            if fault(self):
                self.cluster.faults.remove(fault)
                return
        if answer := method():
            self.reply(*answer)

    def _get(self) -> Answer | None:
        path = urlsplit(self.path).path
        label = self.query.get("labelSelector", "")
        if found := _JOBS.match(path):
            if found[2] is None:
                jobs = [job for job in self.cluster.jobs.values() if _selected(job, label)]
                return 200, {"kind": "JobList", "items": jobs}
            if found[2] not in self.cluster.jobs:
                return refused(404, f'jobs.batch.volcano.sh "{found[2]}" not found')
            return 200, self.cluster.jobs[found[2]]
        if _WORKFLOWS.match(path):
            workflows = [each for each in self.cluster.workflows if _selected(each, label)]
            return 200, {"kind": "WorkflowList", "items": workflows}
        found = _PODS.match(path)
        assert found, path
        if found[3]:
            return self._log(found[2])
        if self.query.get("watch"):
            self._watch(label)
            return None
        pods = [pod for pod in self.cluster.pods.values() if _selected(pod, label)]
        return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}

    def _post(self) -> Answer:
        found = _JOBS.match(urlsplit(self.path).path)
        assert found, self.path
        validate(self.body)
        name = self.body["metadata"]["name"]
        if self.body["metadata"].get("namespace", found[1]) != found[1]:
            return refused(422, "the namespace of the provided object does not match the request's")
        if name in self.cluster.jobs:
            return refused(409, f'jobs.batch.volcano.sh "{name}" already exists')
        self.cluster.add_job(self.body)
        return 201, self.body

    def _patch(self) -> Answer:
        found = _JOBS.match(urlsplit(self.path).path)
        assert found, self.path
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        assert list(self.body) == ["metadata"]
        assert list(self.body["metadata"]) == ["labels"]
        self.cluster.jobs[found[2]]["metadata"]["labels"] |= self.body["metadata"]["labels"]
        return 200, self.cluster.jobs[found[2]]

    def _delete(self) -> Answer:
        found = _JOBS.match(urlsplit(self.path).path)
        assert found, self.path
        if found[2] not in self.cluster.jobs:
            return refused(404, "not found")
        if self.cluster.stuck:
            self.cluster.jobs[found[2]]["metadata"]["deletionTimestamp"] = now()
            return 200, self.cluster.jobs[found[2]]
        for name in [name for name in self.cluster.pods if name.startswith(f"{found[2]}-")]:
            del self.cluster.pods[name]
        return 200, self.cluster.jobs.pop(found[2])

    def _watch(self, label: str) -> None:
        """Send pods as they are, or as they have changed since a version; then as they change."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        at, version = len(self.cluster.changes), self.query.get("resourceVersion")
        changed = self.cluster.changes[int(version) :] if version else list(self.cluster.pods.values())
        until = time.monotonic() + float(self.query["timeoutSeconds"])
        while time.monotonic() < until and not self.cluster.is_away:
            for pod in changed:
                if _selected(pod, label):
                    self.send_event("MODIFIED", pod)
            time.sleep(0.02)
            changed = self.cluster.changes[at:]
            at += len(changed)
        self.send_event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(at)}})
        self.wfile.write(b"0\r\n\r\n")

    def send_event(self, kind: str, resource: dict[str, Any]) -> None:
        """Send an event of a watch."""
        self._chunk(json.dumps({"type": kind, "object": resource}) + "\n")

    def _chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    def _log(self, pod: str) -> Answer | None:
        """Send a log, chunk by chunk, until its pod ends or the connection shall break."""
        if pod not in self.cluster.pods:
            return refused(404, f'pods "{pod}" not found')
        begin = time.time() - float(self.query.get("sinceSeconds", "inf"))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        at = 0
        breaks = self.cluster.log_broken + self.cluster.log_breaks_every
        while True:
            ended = self.cluster.pods.get(pod, {}).get("status", {}).get("phase") != "Running"
            for when, text in self.cluster.logs[pod][at:]:
                at += 1
                if datetime.fromisoformat(when).timestamp() >= begin:
                    self._chunk(f"{when} {text}\n")
                if at == breaks:
                    self.cluster.log_broken = at
                    self.close_connection = True
                    return None
            if ended:
                self.wfile.write(b"0\r\n\r\n")
                return None
            time.sleep(0.02)

    def reply(self, code: int, values: dict[str, Any]) -> None:
        content = json.dumps(values).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


def _selected(resource: dict[str, Any], selector: str) -> bool:
    name, _, value = selector.partition("=")
    return not selector or resource["metadata"].get("labels", {}).get(name) == value
