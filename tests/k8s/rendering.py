"""The manifests that kubectl renders from the folders of k8s/."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

Manifest = dict[str, Any]

K8S = Path("k8s")
OVERLAYS = ["overlays/local", "overlays/v100", "overlays/profile"]
NAMESPACES = {
    "base": "xkd",
    "overlays/local": "kubeflow",
    "overlays/v100": "kubeflow",
    "overlays/profile": "team",
}
"""The namespace of each folder's resources."""
COMPONENTS = ["kubeflow", "identity/eks", "identity/gke"]
"""Included by overlays; rendered on top of the base."""
FOLDERS = ["base", *OVERLAYS, "monitoring"]


def _renders() -> bool:
    """Return whether kubectl is installed and supports kustomize's components and replacements."""
    if not shutil.which("kubectl"):
        return False
    command = ["kubectl", "version", "--client", "--output=json"]
    version = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["clientVersion"]
    return (int(version["major"]), int(version["minor"].rstrip("+"))) >= (1, 27)


needs_kubectl = pytest.mark.skipif(not _renders(), reason="kubectl 1.27 or later is not installed")


def skip_module_without_kubectl() -> None:
    """Skip a module whose every test renders manifests."""
    if needs_kubectl.args[0]:
        pytest.skip(needs_kubectl.kwargs["reason"], allow_module_level=True)


# The labels of pods: a task has those that the pipeline gives, a training pod TorchX's and Volcano's too.
TASK = {"app.kubernetes.io/part-of": "xkd"}
LAUNCHER = TASK | {"app.kubernetes.io/component": "pretrain"}
TRAINING = TASK | {
    "app.kubernetes.io/name": "xkd",
    "torchx.pytorch.org/role-name": "train",
    "torchx.pytorch.org/replica-id": "0",
    "volcano.sh/job-name": "xkd-a-0123456789",
}


@cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """Return the manifests that ``kubectl apply -k`` would send."""
    return render(K8S / folder)


def render(folder: Path) -> tuple[Manifest, ...]:
    """Return the manifests of any folder."""
    command = ["kubectl", "kustomize", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")  # no deprecation warnings either
    return tuple(yaml.safe_load_all(made.stdout))


def of_kind(folder: str, kind: str) -> dict[str, Manifest]:
    """Return the manifests of a kind, by name."""
    return {m["metadata"]["name"]: m for m in rendered(folder) if m["kind"] == kind}


def selects(selector: Manifest | None, labels: dict[str, str]) -> bool:
    """Return whether a label selector, if any, matches these labels."""
    selector = selector or {}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "DoesNotExist", "no other is known here"
        if expression["key"] in labels:
            return False
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
