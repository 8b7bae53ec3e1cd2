"""Kubernetes' API, as much of it as following a job takes; what fails for a while is tried again."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from torchx.schedulers.kubernetes_scheduler import KubernetesScheduler
from torchx.specs import AppDryRunInfo
from urllib3.exceptions import HTTPError

from xkd.errors import UserError

FAILURES = (ApiException, HTTPError, HTTPException, OSError)
"""What a server that is away, or in trouble, raises."""

_VOLCANO = {"group": "batch.volcano.sh", "version": "v1alpha1", "plural": "jobs"}
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TIMEOUT = (5, 60)
"""Seconds to connect to the API, and without a word from it."""
_LISTENING = 50
"""Seconds that changes are listened to over one connection; less than silence may last."""
_CANCELLING = 30.0
"""Seconds that cancelling may take: who is asked to stop is killed before long."""

Result = TypeVar("Result")


class ApiRejectedError(UserError):
    """The Kubernetes API does not do what it is asked for."""


class ApiUnavailableError(UserError):
    """The Kubernetes API does not answer; what was started goes on."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: try again."""


@dataclass(frozen=True)
class PollPolicy:
    """How often the API is asked, in seconds."""

    first: float = 1.0
    """After something happened."""
    longest: float = 15.0
    """While nothing happens."""
    patience: float = 900.0
    """How long the API may be away."""


PACE = PollPolicy()


class Api:
    """Volcano's jobs and their pods in one namespace; what fails for a while is tried again."""

    def __init__(self, namespace: str = "") -> None:
        """Connect from inside the cluster, or as the kubeconfig says, to `namespace` or the one found there.

        Raises:
            UserError: there is no cluster to connect to.
        """
        api, found = _connect()
        self.namespace, self.pace = namespace or found or "default", PACE
        self._torchx = KubernetesScheduler("xkd", client=api)
        self._jobs, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._job_place = {**_VOLCANO, "namespace": self.namespace}

    def create(self, request: AppDryRunInfo[Any]) -> bool:
        """Submit a job through TorchX.

        Returns:
            False if it is there already.
        """
        request.cfg.namespace = self.namespace

        def submit() -> bool:
            try:
                self._torchx.schedule(request)
            except ValueError as error:  # TorchX's word for 409
                if isinstance(error.__cause__, ApiException):
                    return False
                raise
            return True

        return self._patiently(submit)

    def read(self, name: str) -> dict[str, Any] | None:
        """A job; None if there is none of that name."""
        return self._found(lambda: self._jobs.get_namespaced_custom_object(**self._job_place, name=name))

    def jobs(self, label: str) -> list[dict[str, Any]]:
        """The jobs with a label."""
        listed = self._patiently(
            lambda: self._jobs.list_namespaced_custom_object(**self._job_place, label_selector=label)
        )
        jobs: list[dict[str, Any]] = listed["items"]
        return jobs

    def delete(self, name: str) -> None:
        """Have a job and its pods removed, which save first."""
        options = {"propagation_policy": "Foreground", "_request_timeout": (5, _CANCELLING / 2)}
        self._found(
            lambda: self._jobs.delete_namespaced_custom_object(**self._job_place, name=name, **options)
        )

    def gone(self, name: str, within: float) -> bool:
        """Wait until a job that is being removed is no more; whether that was within so many seconds."""
        end = time.monotonic() + within
        while self.read(name):
            if time.monotonic() > end:
                return False
            time.sleep(self.pace.first)
        return True

    def cancel(self, name: str) -> str:
        """`delete` a job soon, or say how somebody else can; what became of it, for people."""
        self.pace = replace(self.pace, patience=min(self.pace.patience, _CANCELLING))
        try:
            self.delete(name)
        except UserError as error:
            return f"not cancelled ({error}): kubectl delete vcjob {name} -n {self.namespace}"
        return "cancelled"

    def pods(self, name: str) -> list[client.V1Pod]:
        """The pods of a job."""
        label = f"volcano.sh/job-name={name}"
        listed = self._patiently(lambda: self._core.list_namespaced_pod(self.namespace, label_selector=label))
        pods: list[client.V1Pod] = listed.items
        return pods

    def pod_changes(self, name: str, since: str | None) -> Iterator[client.V1Pod]:
        """A job's pods, each as it is and whenever it changes, or since a version; ends after a while."""
        events = watch.Watch().stream(
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=f"volcano.sh/job-name={name}",
            resource_version=since,
            timeout_seconds=_LISTENING,
        )
        for event in events:
            yield event["object"]

    def log(self, pod: str, since_seconds: int | None) -> Iterator[bytes]:
        """A pod's lines with their times as they come, to the end of its container or of the connection."""
        given = {} if since_seconds is None else {"since_seconds": since_seconds}
        response = self._core.read_namespaced_pod_log(
            pod, self.namespace, follow=True, timestamps=True, _preload_content=False, **given
        )
        try:
            yield from response
        finally:
            response.release_conn()

    def _found(self, call: Callable[[], Result]) -> Result | None:
        """`call`, or None where the server knows no such thing."""

        def asked() -> Result | None:
            try:
                return call()
            except ApiException as error:
                if error.status == 404:
                    return None
                raise

        return self._patiently(asked)

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """`call` until the server answers it.

        Raises:
            ApiRejectedError: it answers that this may not be.
            ApiUnavailableError: it does not answer at all for long.
        """
        begin, pause = time.monotonic(), self.pace.first
        while True:
            try:
                return call()
            except FAILURES as error:
                if (
                    isinstance(error, ApiException)
                    and 400 <= error.status < 500
                    and error.status not in (408, 429)
                ):
                    raise ApiRejectedError(_refusal(error, self.namespace)) from None
                if time.monotonic() - begin > self.pace.patience:
                    raise ApiUnavailableError(
                        f"the Kubernetes API is away for {self.pace.patience:.0f} s now ({_why(error)}); "
                        "the job goes on, and the same command finds it again"
                    ) from None
                say(f"the Kubernetes API does not answer ({_why(error)}); trying again")
            time.sleep(pause)
            pause = min(2 * pause, 4 * self.pace.longest)


class _Client(client.ApiClient):  # type: ignore[misc]
    """An API client none of whose calls waits for ever; TorchX sets no limits."""

    def request(self, *arguments: Any, **options: Any) -> Any:
        """Ask the server."""
        options["_request_timeout"] = options.get("_request_timeout") or _TIMEOUT
        return super().request(*arguments, **options)


def _connect() -> tuple[client.ApiClient, str]:
    """A client of the cluster and the namespace to work in, if the surroundings name one."""
    configuration, namespace = client.Configuration(), ""
    try:
        config.load_incluster_config(client_configuration=configuration)
        namespace = _NAMESPACE.read_text().strip()
    except config.ConfigException:
        file = os.environ.get("KUBECONFIG")  # the library reads it only once, as it is imported
        try:
            config.load_kube_config(file, client_configuration=configuration)
            _, context = config.list_kube_config_contexts(file)
        except config.ConfigException as error:
            raise UserError(
                f"no Kubernetes cluster: {' '.join(str(error).split())} Set KUBECONFIG, or train on this "
                "machine with xkd pretrain"
            ) from None
        namespace = context["context"].get("namespace", "")
    configuration.retries = False  # they are made here, and told
    return _Client(configuration), namespace


def _refusal(error: ApiException, namespace: str) -> str:
    """A refused request as a line that says what to do."""
    said = _why(error)
    if error.status == 401:
        return f"the cluster does not know who asks: {said}; log in to it again"
    if error.status == 403:
        return f"the cluster does not allow it: {said}; apply k8s/base to namespace {namespace}"
    if error.status == 404:
        return f"the cluster knows no Volcano jobs ({said}); install Volcano"
    return f"the cluster refuses the job: {said}"


def _why(error: Exception) -> str:
    """An API error in its own words, on one line."""
    if isinstance(error, ApiException):
        with suppress(ValueError, KeyError, TypeError):
            return " ".join(str(json.loads(error.body)["message"]).split())
        return f"{error.status} {error.reason}"
    return " ".join(str(error).split())


def say(text: str) -> None:
    """A line of news, on stderr."""
    print(f"xkd: {text}", file=sys.stderr, flush=True)
