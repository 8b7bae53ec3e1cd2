"""A pipeline's task as a place to train: what it is given in Kubernetes goes on to the job that it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from xkd.config.overrides import build, resolve
from xkd.launch.kubernetes.config import ClusterConfig


class Task(Protocol):
    """What a task is given, under the names of `ClusterConfig`; ``kfp.dsl.TaskConfig`` is one."""

    affinity: Mapping[str, Any] | None
    tolerations: Sequence[Mapping[str, Any]] | None
    node_selector: Mapping[str, str] | None
    env: Sequence[Mapping[str, Any]] | None
    volumes: Sequence[Mapping[str, Any]] | None
    volume_mounts: Sequence[Mapping[str, Any]] | None
    resources: Mapping[str, Any] | None


def from_task(
    nodes: int, image: str, overrides: Sequence[str], task: Task | None = None
) -> ClusterConfig | None:
    """Where a task has its job run: defaults < what the task is given < overrides.

    Args:
        nodes: hosts; 0: there is no job.
        image: image of the job's pods.
        overrides: settings of `ClusterConfig`, each ``name=value``.
        task: what the task is given, where anything is.

    Raises:
        UserError: an override is unknown or of the wrong type.
    """
    if not nodes:
        return None
    given = {name: value for name in Task.__annotations__ if (value := getattr(task, name, None))}
    # A quantity of Kubernetes may come as a number, and KFP's numbers are all floats.
    given["resources"] = {
        kind: {name: str(amount).removesuffix(".0") for name, amount in amounts.items()}
        for kind, amounts in given.get("resources", {}).items()
    }
    config = build(ClusterConfig, {"nodes": nodes, "image": image, **given}, "the task's own settings")
    return resolve(config, None, overrides)
