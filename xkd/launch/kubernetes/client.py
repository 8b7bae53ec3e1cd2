"""Client for Volcano jobs and their pods; transient failures of the Kubernetes API are retried."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential
from urllib3.exceptions import HTTPError

from xkd.errors import EXIT_TRY_AGAIN, UserError, XkdError
from xkd.io import one_line
from xkd.log import get_logger

FAILURES = (ApiException, HTTPError, HTTPException, OSError)
"""Exceptions of a server that is unreachable, or in trouble."""

_VOLCANO: dict[str, Any] = {"group": "batch.volcano.sh", "version": "v1alpha1", "plural": "jobs"}
_ARGO: dict[str, Any] = {"group": "argoproj.io", "version": "v1alpha1", "plural": "workflows"}
RUN_LABEL = "pipeline/runid"
"""KFP's label of everything that belongs to a pipeline run."""
_TIMEOUT = (5, 60)
"""Seconds to connect to the API, and to wait for its next byte."""
_WATCH_SECONDS = 50
"""Time until a watch is renewed; it may be silent for less than `_TIMEOUT`."""
_INTERRUPTED_SECONDS = 30.0
"""Time that requests may take after a signal: an interrupted process is killed before long."""
_QUICK: dict[str, Any] = {"_request_timeout": (5, _INTERRUPTED_SECONDS / 2)}
_REJECTIONS = {
    401: "the cluster rejected your credentials: {reason}; log in again",
    403: (
        "permission denied by the cluster: {reason}; apply k8s/base to namespace {namespace}, and bind its "
        "role xkd-launcher to {account}"
    ),
    404: "the cluster has no Volcano jobs ({reason}); install Volcano",
}

log = get_logger(__name__)


class ApiRejectedError(UserError):
    """The Kubernetes API rejects a request."""


class ApiUnavailableError(XkdError):
    """Requests to the Kubernetes API fail; the job continues."""

    exit_code = EXIT_TRY_AGAIN


@dataclass(frozen=True)
class PollPolicy:
    """Intervals of requests to the API, in seconds."""

    first: float = 1.0
    """After a change."""
    longest: float = 15.0
    """While nothing changes."""
    patience: float = 900.0
    """How long requests may fail."""

    def next_pause(self, pause: float, changed: bool) -> float:
        """Return the interval after `pause`: the first one after a change, else twice as long."""
        return self.first if changed else min(2 * pause, self.longest)


POLL_POLICY = PollPolicy()


class Api:
    """Volcano's jobs and their pods in a namespace: the given one, or that of the pod or the kubeconfig.

    Raises:
        UserError: no cluster is configured.
    """

    def __init__(self, namespace: str = "") -> None:
        api, found = _connect()
        self.namespace, self.policy = namespace or found or "default", POLL_POLICY
        self._own_namespace = found or self.namespace
        self._custom, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._location = {**_VOLCANO, "namespace": self.namespace, "_request_timeout": _TIMEOUT}
        self._is_following = False

    def create(self, manifest: dict[str, Any]) -> bool:
        """Create a job; return False if one of that name exists."""
        create = self._custom.create_namespaced_custom_object
        return self._request(create, unless=409, **self._location, body=manifest) is not None

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a job, or None if no job has that name."""
        read = self._custom.get_namespaced_custom_object
        job: dict[str, Any] | None = self._request(read, unless=404, **self._location, name=name)
        return job

    def jobs(self, label: str) -> list[dict[str, Any]]:
        """Return the jobs with a label."""
        listed = self._custom.list_namespaced_custom_object
        return list(self._request(listed, **self._location, label_selector=label)["items"])

    def label(self, name: str, labels: dict[str, str]) -> None:
        """Set labels of a job."""
        patch = self._custom.patch_namespaced_custom_object
        self._request(patch, **self._location, name=name, body={"metadata": {"labels": labels}})

    def is_terminated(self, run_id: str) -> bool:
        """Return whether a pipeline run was terminated, within a short time; False if that is not known."""
        self._interrupted()
        listed = self._custom.list_namespaced_custom_object
        options = {**_ARGO, **_QUICK, "namespace": self._own_namespace}
        try:
            found = self._request(listed, **options, label_selector=f"{RUN_LABEL}={run_id}")
        except XkdError as error:
            log.warning("whether pipeline run %s was terminated is not known: %s", run_id, error)
            return False
        # KFP terminates a run by a deadline of 0, Argo's own tools by a shutdown.
        specs = [workflow["spec"] for workflow in found["items"]]
        return any(spec.get("activeDeadlineSeconds") == 0 or spec.get("shutdown") for spec in specs)

    def delete(self, name: str) -> None:
        """Delete a job and its pods, which save first."""
        delete = self._custom.delete_namespaced_custom_object
        location = self._location | _QUICK
        self._request(delete, unless=404, **location, name=name, propagation_policy="Foreground")

    def cancel(self, name: str) -> str:
        """Delete a job within a short time; return the outcome as text, with a command if that failed."""
        self._interrupted()
        try:
            self.delete(name)
        except XkdError as error:
            return f"not cancelled ({error}): kubectl delete vcjob {name} -n {self.namespace}"
        return "cancelled"

    @contextmanager
    def following(self) -> Iterator[None]:
        """Retry also what the server rejects: a token that expires is replaced before long."""
        self._is_following = True
        try:
            yield
        finally:
            self._is_following = False

    def pods(self, name: str) -> list[client.V1Pod]:
        """Return the pods of a job."""
        return list(self._request(self._core.list_namespaced_pod, **self._pods_of(name)).items)

    def watch_pods(self, name: str, version: str | None) -> Iterator[tuple[client.V1Pod | None, str]]:
        """Yield a job's pods whenever they change, until the request times out.

        Each comes with the version from which the next watch continues. The server also sends new versions
        without a pod, because it forgets old ones.

        Args:
            version: None: begin with the pods as they are.
        """
        options = {"resource_version": version, "timeout_seconds": _WATCH_SECONDS}
        options |= {"allow_watch_bookmarks": True, **self._pods_of(name)}
        for event in watch.Watch().stream(self._core.list_namespaced_pod, **options):
            pod = None if event["type"] == "BOOKMARK" else event["object"]
            yield pod, event["raw_object"]["metadata"]["resourceVersion"]

    def log_lines(self, pod: str, since_seconds: int | None) -> Iterator[bytes]:
        """Yield a pod's lines with their times, until its container or the connection ends."""
        options = {"timestamps": True, "_preload_content": False, "_request_timeout": _TIMEOUT}
        response = self._core.read_namespaced_pod_log(
            pod, self.namespace, follow=True, since_seconds=since_seconds, **options
        )
        try:
            yield from response
        finally:
            response.release_conn()

    def _interrupted(self) -> None:
        self.policy = replace(self.policy, patience=min(self.policy.patience, _INTERRUPTED_SECONDS))

    def _pods_of(self, name: str) -> dict[str, Any]:
        label = f"volcano.sh/job-name={name}"
        return {"namespace": self.namespace, "label_selector": label, "_request_timeout": _TIMEOUT}

    def _request(self, send: Callable[..., Any], *, unless: int = -1, **options: Any) -> Any:
        """Return the response, retried until the server responds; None for the HTTP status `unless`.

        Raises:
            ApiRejectedError: the server rejects the request.
            ApiUnavailableError: the server gives no answer within the policy's patience; while a job is
                followed, a rejection is no answer.
        """
        retrying = Retrying(
            retry=retry_if_exception(
                lambda error: (
                    isinstance(error, FAILURES)
                    and getattr(error, "status", 0) != unless
                    and (self._is_following or not _is_rejection(error))
                )
            ),
            wait=wait_exponential(multiplier=self.policy.first, max=4 * self.policy.longest),
            stop=stop_after_delay(self.policy.patience),
            before_sleep=lambda state: log.warning(
                "a request to the Kubernetes API failed (%s); retrying",
                _reason(state.outcome.exception() if state.outcome else None),
            ),
            reraise=True,
        )
        try:
            return retrying(send, **options)
        except FAILURES as error:
            status, reason = getattr(error, "status", 0), _reason(error)
            if status == unless:
                return None
            if _is_rejection(error) and not self._is_following:
                line = _REJECTIONS.get(status, "the cluster rejected the job: {reason}")
                details = {"reason": reason, "namespace": self.namespace, "account": _account(reason)}
                raise ApiRejectedError(line.format(**details)) from None
            raise ApiUnavailableError(
                f"requests to the Kubernetes API failed for {self.policy.patience:.0f} s ({reason}); the job "
                "continues, rerun the command to attach to it"
            ) from None


def _connect() -> tuple[client.ApiClient, str]:
    """Return a client of the cluster, and the namespace of the pod or the kubeconfig, if it names one."""
    configuration, namespace = client.Configuration(), ""
    try:
        config.load_incluster_config(client_configuration=configuration)
        namespace = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()
    except config.ConfigException:
        file = os.environ.get("KUBECONFIG")  # the library reads it only once, when it is imported
        try:
            config.load_kube_config(file, client_configuration=configuration)
            _, context = config.list_kube_config_contexts(file)
        except config.ConfigException as error:
            raise UserError(
                f"no Kubernetes cluster: {one_line(error)} Set KUBECONFIG, or train on this "
                "machine with xkd pretrain"
            ) from None
        namespace = context["context"].get("namespace", "")
    configuration.retries = False  # `Api` retries, and logs it
    return client.ApiClient(configuration), namespace


def _is_rejection(error: BaseException) -> bool:
    """Return whether an error is the server's final answer; 408 and 429 ask for a retry."""
    return isinstance(error, ApiException) and 400 <= error.status < 500 and error.status not in (408, 429)


def _reason(error: BaseException | None) -> str:
    """Return an API error's own message, on one line."""
    if isinstance(error, ApiException):
        with suppress(ValueError, KeyError, TypeError):
            return " ".join(str(json.loads(error.body)["message"]).split())
        return f"{error.status} {error.reason}"
    return one_line(error) if error else ""


def _account(reason: str) -> str:
    """Return the account that the API server names as lacking a permission.

    In a Kubeflow profile it is the profile's `default-editor`, not `pipeline-runner`.
    """
    if service := re.search(r'User "system:serviceaccount:([^":]+):([^":]+)"', reason):
        return f"service account {service[2]} of namespace {service[1]}"
    user = re.search(r'User "([^"]+)"', reason)
    return f"user {user[1]}" if user else "your account"
