"""The containers of the pipeline's tasks, whose placeholders are filled as KFP's driver fills them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from pipelines.xkd_full import xkd_full
from xkd.launch.kubernetes.config import TOLERATIONS, VOLUME

TASK = {
    "affinity": None,
    "tolerations": list(TOLERATIONS),
    "nodeSelector": {},
    "env": [
        {"name": "KFP_RUN_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['pipeline/runid']"}}}
    ],
    "volumes": [{"name": VOLUME, "persistentVolumeClaim": {"claimName": VOLUME}}],
    "volumeMounts": [{"name": VOLUME, "mountPath": "/workspace/runs"}],
    "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "4"}},
}
"""The Kubernetes settings that KFP's driver makes of the pipeline's defaults."""
RELEASE = {
    "nodes": 2,
    "cluster_settings": [],
    "status": {"state": "FAILED", "pipelineTaskName": "pretrain", "error": {}},
}
"""Inputs of the task that follows a failed pretraining."""
_PARAMETERS, _ARTIFACTS = ("verdict", "reason", "evaluate"), ("config", "history")
"""Outputs of `pretrain`."""


def compile_containers(folder: Path) -> dict[str, Any]:
    """Return the container of each component of the full pipeline."""
    package = folder / "full.yaml"
    compiler.Compiler().compile(xkd_full, str(package))
    spec = next(yaml.safe_load_all(package.read_text()))
    executors = spec["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}


def fill(container: Mapping[str, Any], task: str, inputs: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the command of a task, which writes its outputs and `out.json` to a folder."""
    outputs: dict[str, Any] = {"outputFile": str(folder / "out.json")}
    if task == "pretrain":
        outputs["parameters"] = {name: {"outputFile": str(folder / name)} for name in _PARAMETERS}
        outputs["artifacts"] = {name: {"artifacts": [_artifact(folder / name)]} for name in _ARTIFACTS}
    filled = json.dumps({"inputs": {"parameterValues": inputs}, "outputs": outputs})
    return [*container["command"], *(filled if word == "{{$}}" else word for word in container["args"])]


def _artifact(path: Path) -> dict[str, Any]:
    return {"name": path.name, "uri": str(path), "type": {"schemaTitle": "system.Artifact"}, "metadata": {}}
