"""Security flaws of manifests: secrets, permissions and privileges."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.k8s.schemas import pods

TRAINER = "xkd-train"
"""The service account of training pods, which need no access to the Kubernetes API."""

_TOKENS = re.compile(
    r"-----BEGIN|\beyJ[\w-]{8,}\.|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}"
    r"|\bglpat-[\w-]{20,}|\bhf_\w{20,}|\bxox[abprs]-|\bAIza[\w-]{30,}|\bya29\.|://[^/\s:@]+:[^/\s@]+@"
    # Long random text, except for digests of images.
    r"|(?<!sha256:)\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9+/]{40,}={0,2}"
)
"""Patterns of private keys, tokens of well-known services, and URLs with passwords."""
_SECRET_NAMES = re.compile(r"passw|secret|token|credential|api_?key|access_?key|private_?key", re.IGNORECASE)
_POWERS = {"escalate", "bind", "impersonate"}
"""Verbs with which an account can extend its permissions."""


def flaws(manifest: dict[str, Any]) -> list[str]:
    """Return the flaws of a manifest, each in a few words."""
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    found = [*_secrets(manifest), *_rights(manifest), *_account(manifest)]
    for pod in pods(manifest):
        found += _pod(pod["spec"])
    return [f"{name}: {flaw}" for flaw in found]


def _secrets(manifest: dict[str, Any]) -> Iterator[str]:
    if manifest["kind"] == "Secret":
        yield "is a secret"
    for name, value in _strings("", manifest):
        if _TOKENS.search(value):
            yield f"something like a token at {name}"
    for pod in pods(manifest):
        for container in _containers(pod["spec"]):
            for variable in container.get("env", []):
                if _SECRET_NAMES.search(variable["name"]) and variable.get("value"):
                    yield f"a secret spelled out as {variable['name']}"


def _strings(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield every text in a manifest, including keys, with its path."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _strings(f"{name}[{index}]", inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{name}.{key}", key
            yield from _strings(f"{name}.{key}", inner)


def _rights(manifest: dict[str, Any]) -> Iterator[str]:
    if manifest["kind"] in ("ClusterRole", "ClusterRoleBinding"):
        yield "grants rights to the whole cluster"
    if manifest.get("roleRef", {}).get("kind") == "ClusterRole":
        yield f"grants the cluster's role {manifest['roleRef']['name']}"
    for subject in manifest.get("subjects", []):
        if subject["kind"] != "ServiceAccount":
            yield f"grants rights to {subject['kind']} {subject['name']}"
    for rule in manifest.get("rules", []) if manifest["kind"].endswith("Role") else []:
        if any("*" in value for values in rule.values() for value in values):
            yield f"a wildcard in {rule}"
        if any(resource.startswith("secrets") for resource in rule.get("resources", [])):
            yield f"reads or writes secrets by {rule}"
        if _POWERS & set(rule["verbs"]):
            yield f"may take further rights by {rule}"


def _account(manifest: dict[str, Any]) -> Iterator[str]:
    is_trainer = manifest["kind"] == "ServiceAccount" and manifest["metadata"]["name"] == TRAINER
    if is_trainer and manifest.get("automountServiceAccountToken") is not False:
        yield "mounts its token"


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    has_no_rights = spec.get("serviceAccountName", "default") in (TRAINER, "default")
    if has_no_rights and spec.get("automountServiceAccountToken") is not False:
        yield "a pod mounts a token that it has no use for"
    for shared in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(shared):
            yield f"a pod with {shared}"
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"a pod mounts {volume['hostPath']['path']} of its node"
    for container in _containers(spec):
        for flaw in _container(spec.get("securityContext", {}), container.get("securityContext", {})):
            yield f"container {container['name']} {flaw}"


def _containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(kind, [])


def _container(pod: dict[str, Any], own: dict[str, Any]) -> Iterator[str]:
    """Yield the flaws of a container, whose settings override its pod's."""
    context = pod | own
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield "may run as root"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "may gain privileges"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or capabilities.get("add"):
        yield "keeps capabilities"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "may use all system calls"
