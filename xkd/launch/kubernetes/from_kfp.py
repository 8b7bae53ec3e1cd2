"""Pretraining as a task of a pipeline: the task's Kubernetes settings become those of the job it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xkd.config import PretrainConfig
from xkd.config.overrides import resolve
from xkd.errors import CollapsedError, UserError
from xkd.launch.kubernetes.config import TOLERATIONS, ClusterConfig
from xkd.launch.launcher import describe, launch
from xkd.rundir import Verdict

_TASK_FIELDS = ("affinity", "tolerations", "node_selector", "env", "volumes", "volume_mounts")
"""A task's Kubernetes settings, named as in `ClusterConfig`."""


def cluster_of_task(
    nodes: int,
    settings: Sequence[str],
    image: str = "",
    node_type: str = "",
    resources: Mapping[str, str] | None = None,
    task: object = None,
) -> ClusterConfig | None:
    """Return where a task runs its job: defaults < arguments and the task's own settings < `settings`.

    Args:
        nodes: hosts; 0: there is no job.
        settings: settings of `ClusterConfig`, each ``name=value``.
        node_type: a key of `NODE_TYPES`; empty: none.
        resources: quantities of each pod by resource; empty ones are those of `node_type`.
        task: the task's own settings, a ``kfp.dsl.TaskConfig``, if any.

    Raises:
        UserError: a setting is unknown or of the wrong type.
    """
    if not nodes:
        return None
    values = {name: getattr(task, name, None) or None for name in _TASK_FIELDS}
    limits = {name: amount for name, amount in (resources or {}).items() if amount}
    values["resources"] = {"limits": limits} if limits else {}
    return resolve(ClusterConfig(), None, settings, nodes=nodes, image=image, node_type=node_type, **values)


def place_evaluation(
    gpus: str,
    image: str,
    gpu_image: str,
    node_type: str,
    node_selector: Mapping[str, str],
    tolerations: Sequence[Mapping[str, Any]],
) -> tuple[str, dict[str, str], list[dict[str, Any]]]:
    """Return an evaluation's image, node selector and tolerations: with GPUs those of the job, else `image`.

    Args:
        gpus: the number of its GPUs.
        image: the image of tasks without GPUs.
        gpu_image: the job's; empty: `image`.
        node_type: a key of `NODE_TYPES`; empty: none.
        node_selector: the job's; empty: that of `node_type`.
        tolerations: the job's, besides that of GPU nodes.

    Raises:
        UserError: the number or the node type is wrong.
    """
    if not gpus.isdecimal():
        raise UserError(f"evaluation_gpus: expected a number of GPUs such as 1, got {gpus!r}")
    cluster = resolve(
        ClusterConfig(),
        None,
        node_type=node_type,
        node_selector=node_selector,
        tolerations=[*TOLERATIONS, *tolerations],
    ).resolved()
    if not int(gpus):
        return image, {}, []
    return gpu_image or image, cluster.node_selector, list(cluster.tolerations)


def run_id() -> str:
    """Return the id of the pipeline run that this task belongs to; "" if there is none."""
    return os.environ.get("KFP_RUN_ID", "")


def pretrain_task(
    config: PretrainConfig, data: Path, out: Path, processes: int, cluster: ClusterConfig | None
) -> tuple[str, str, str]:
    """Pretrain (`launch`); return the verdict, also on a collapsed run, its reason, and whether to evaluate.

    The last is "yes" or "no", because a condition in a pipeline compares one output with one constant.
    """
    try:
        verdict = launch(config, data, out, processes, cluster, run_id())
    except CollapsedError as error:
        verdict = Verdict(**error.verdict)
    return *describe(verdict, out), "yes" if verdict and not verdict.failed else "no"
