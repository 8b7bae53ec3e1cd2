"""Pretraining as a task of a pipeline: the task's Kubernetes settings become those of the job it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from xkd.config import PretrainConfig
from xkd.config.overrides import resolve
from xkd.errors import CollapsedError
from xkd.launch.kubernetes.config import ClusterConfig
from xkd.launch.launcher import describe, launch
from xkd.rundir import Verdict

_TASK_FIELDS = ("affinity", "tolerations", "node_selector", "env", "volumes", "volume_mounts", "resources")
"""A task's Kubernetes settings, named as in `ClusterConfig`."""


def cluster_of_task(
    nodes: int, settings: Sequence[str], image: str = "", node_type: str = "", task: object = None
) -> ClusterConfig | None:
    """Return where a task runs its job: defaults < arguments and the task's own settings < `settings`.

    Args:
        nodes: hosts; 0: there is no job.
        settings: settings of `ClusterConfig`, each ``name=value``.
        node_type: a key of `NODE_TYPES`; empty: none.
        task: the task's own settings, a ``kfp.dsl.TaskConfig``, if any.

    Raises:
        UserError: a setting is unknown or of the wrong type.
    """
    if not nodes:
        return None
    values = {name: getattr(task, name, None) or None for name in _TASK_FIELDS}
    # Quantities may come as numbers, and all of KFP's numbers are floats.
    values["resources"] = {
        kind: {name: str(amount).removesuffix(".0") for name, amount in amounts.items()}
        for kind, amounts in (values["resources"] or {}).items()
    }
    return resolve(ClusterConfig(), None, settings, nodes=nodes, image=image, node_type=node_type, **values)


def run_id() -> str:
    """Return the id of the pipeline run that this task belongs to; "" if there is none."""
    return os.environ.get("KFP_RUN_ID", "")


def pretrain_task(
    config: PretrainConfig, data: Path, out: Path, processes: int, cluster: ClusterConfig | None
) -> tuple[str, str]:
    """Pretrain (`launch`); return the verdict, also on a collapsed run, and its reason."""
    try:
        return describe(launch(config, data, out, processes, cluster, run_id()), out)
    except CollapsedError as error:
        return describe(Verdict(**error.verdict), out)
