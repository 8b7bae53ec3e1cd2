"""Client for Volcano jobs and their pods; transient failures of the Kubernetes API are retried."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential
from urllib3.exceptions import HTTPError

from xkd.errors import EXIT_TRY_AGAIN, UserError, XkdError
from xkd.log import get_logger

FAILURES = (ApiException, HTTPError, HTTPException, OSError)
"""Exceptions of a server that is unreachable, or in trouble."""

_VOLCANO = {"group": "batch.volcano.sh", "version": "v1alpha1", "plural": "jobs"}
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TIMEOUT = (5, 60)
"""Seconds to connect to the API, and to wait for its next byte."""
_WATCH_SECONDS = 50
"""Duration of one watch request; less than the timeout of silence."""
_CANCEL_SECONDS = 30.0
"""Time that cancelling may take: an interrupted process is killed before long."""

Result = TypeVar("Result")
log = get_logger(__name__)


class ApiRejectedError(UserError):
    """The Kubernetes API rejects a request."""


class ApiUnavailableError(XkdError):
    """The Kubernetes API does not respond; the job continues."""

    exit_code = EXIT_TRY_AGAIN


@dataclass(frozen=True)
class PollPolicy:
    """Intervals of requests to the API, in seconds."""

    first: float = 1.0
    """After a change."""
    longest: float = 15.0
    """While nothing changes."""
    patience: float = 900.0
    """How long the API may be unreachable."""

    def next_pause(self, pause: float, changed: bool) -> float:
        """Return the interval after `pause`: the first one after a change, else twice as long."""
        return self.first if changed else min(2 * pause, self.longest)


POLL_POLICY = PollPolicy()


class Api:
    """Volcano's jobs and their pods in one namespace."""

    def __init__(self, namespace: str = "") -> None:
        """Connect from inside the cluster or by the kubeconfig, to `namespace` or the one found there.

        Raises:
            UserError: no cluster is configured.
        """
        api, found = _connect()
        self.namespace, self.policy = namespace or found or "default", POLL_POLICY
        self._jobs, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._location = {**_VOLCANO, "namespace": self.namespace, "_request_timeout": _TIMEOUT}

    def create(self, manifest: dict[str, Any]) -> bool:
        """Create a job; return False if one of that name exists."""
        request = partial(self._jobs.create_namespaced_custom_object, **self._location, body=manifest)
        return self._unless(409, request) is not None

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a job; None if there is none of that name."""
        return self._unless(404, lambda: self._jobs.get_namespaced_custom_object(**self._location, name=name))

    def jobs(self, label: str) -> list[dict[str, Any]]:
        """Return the jobs with a label."""
        request = partial(self._jobs.list_namespaced_custom_object, **self._location, label_selector=label)
        return list(self._retry(request)["items"])

    def delete(self, name: str) -> None:
        """Delete a job and its pods, which save first."""
        options = {**self._location, "name": name, "_request_timeout": (5, _CANCEL_SECONDS / 2)}
        request = self._jobs.delete_namespaced_custom_object
        self._unless(404, lambda: request(**options, propagation_policy="Foreground"))

    def wait_deleted(self, name: str, timeout: float) -> bool:
        """Wait until a job no longer exists; return False after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self.read(name):
            if time.monotonic() > end:
                return False
            time.sleep(self.policy.first)
        return True

    def cancel(self, name: str) -> str:
        """Delete a job within a short time; return the outcome as text, with a command if that failed."""
        self.policy = replace(self.policy, patience=min(self.policy.patience, _CANCEL_SECONDS))
        try:
            self.delete(name)
        except XkdError as error:
            return f"not cancelled ({error}): kubectl delete vcjob {name} -n {self.namespace}"
        return "cancelled"

    def pods(self, name: str) -> list[client.V1Pod]:
        """Return the pods of a job."""
        request = partial(self._core.list_namespaced_pod, **self._pods_of(name))
        return list(self._retry(request).items)

    def watch_pods(self, name: str, version: str | None) -> Iterator[client.V1Pod]:
        """Yield a job's pods whenever they change, since a resource version, until the request times out."""
        events = watch.Watch().stream(
            self._core.list_namespaced_pod,
            **self._pods_of(name),
            resource_version=version,
            timeout_seconds=_WATCH_SECONDS,
        )
        for event in events:
            yield event["object"]

    def log_lines(self, pod: str, since_seconds: int | None) -> Iterator[bytes]:
        """Yield a pod's lines with their times, until its container or the connection ends."""
        since = {} if since_seconds is None else {"since_seconds": since_seconds}
        response = self._core.read_namespaced_pod_log(
            pod,
            self.namespace,
            follow=True,
            timestamps=True,
            _preload_content=False,
            _request_timeout=_TIMEOUT,
            **since,
        )
        try:
            yield from response
        finally:
            response.release_conn()

    def _pods_of(self, name: str) -> dict[str, Any]:
        label = f"volcano.sh/job-name={name}"
        return {"namespace": self.namespace, "label_selector": label, "_request_timeout": _TIMEOUT}

    def _unless(self, status: int, call: Callable[[], Result]) -> Result | None:
        """Return the result of `call`, retried; None where the server returns this HTTP status."""

        def attempt() -> Result | None:
            try:
                return call()
            except ApiException as error:
                if error.status == status:
                    return None
                raise

        return self._retry(attempt)

    def _retry(self, call: Callable[[], Result]) -> Result:
        """Return the result of `call`, retried until the server responds.

        Raises:
            ApiRejectedError: the server rejects the request.
            ApiUnavailableError: the server does not respond within the policy's patience.
        """
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, FAILURES) and not _is_rejection(error)),
            wait=wait_exponential(multiplier=self.policy.first, max=4 * self.policy.longest),
            stop=stop_after_delay(self.policy.patience),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            return retrying(call)
        except FAILURES as error:
            if _is_rejection(error):
                raise ApiRejectedError(_explain_rejection(error, self.namespace)) from None
            raise ApiUnavailableError(
                f"Kubernetes API unreachable for {self.policy.patience:.0f} s ({_reason(error)}); the job "
                "continues, rerun the command to attach to it"
            ) from None


def _connect() -> tuple[client.ApiClient, str]:
    """Return a client of the cluster, and the namespace of the pod or the kubeconfig, if it names one."""
    configuration, namespace = client.Configuration(), ""
    try:
        config.load_incluster_config(client_configuration=configuration)
        namespace = _NAMESPACE.read_text().strip()
    except config.ConfigException:
        file = os.environ.get("KUBECONFIG")  # the library reads it only once, when it is imported
        try:
            config.load_kube_config(file, client_configuration=configuration)
            _, context = config.list_kube_config_contexts(file)
        except config.ConfigException as error:
            raise UserError(
                f"no Kubernetes cluster: {' '.join(str(error).split())} Set KUBECONFIG, or train on this "
                "machine with xkd pretrain"
            ) from None
        namespace = context["context"].get("namespace", "")
    configuration.retries = False  # `Api` retries, and logs it
    return client.ApiClient(configuration), namespace


def _is_rejection(error: BaseException) -> bool:
    """Return whether an error is the server's final answer; 408 and 429 ask for a retry."""
    return isinstance(error, ApiException) and 400 <= error.status < 500 and error.status not in (408, 429)


def _explain_rejection(error: Exception, namespace: str) -> str:
    """Return a rejected request as a line that says what to do."""
    reason = _reason(error)
    lines = {
        401: f"the cluster does not accept your credentials: {reason}; log in to it again",
        403: f"the cluster does not allow this: {reason}; apply k8s/base to namespace {namespace}",
        404: f"the cluster has no Volcano jobs ({reason}); install Volcano",
    }
    return lines.get(getattr(error, "status", 0), f"the cluster rejects the job: {reason}")


def _reason(error: BaseException) -> str:
    """Return an API error's own message, on one line."""
    if isinstance(error, ApiException):
        with suppress(ValueError, KeyError, TypeError):
            return " ".join(str(json.loads(error.body)["message"]).split())
        return f"{error.status} {error.reason}"
    return " ".join(str(error).split())


def _log_retry(state: RetryCallState) -> None:
    assert state.outcome
    error = state.outcome.exception()
    assert error
    log.warning("the Kubernetes API does not respond (%s); retrying", _reason(error))
