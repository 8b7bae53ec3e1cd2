"""pretrain: XKD on prepared clips, by torchrun through TorchX, here or as a job on several nodes."""

from typing import NamedTuple

from kfp.dsl import Artifact, Output, TaskConfig, TaskConfigField, TaskConfigPassthrough

from components import component


# What the task is given in Kubernetes goes to the job's pods. Its own pod, which starts and follows the job,
# takes of that the volumes and the variables; it needs no GPU, nor a place on a node that has some.
@component(
    task_config_passthroughs=[
        TaskConfigField.RESOURCES,
        TaskConfigField.KUBERNETES_TOLERATIONS,
        TaskConfigField.KUBERNETES_NODE_SELECTOR,
        TaskConfigField.KUBERNETES_AFFINITY,
        TaskConfigPassthrough(field=TaskConfigField.ENV, apply_to_task=True),
        TaskConfigPassthrough(field=TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ]
)
def pretrain(
    preset: str,
    overrides: list[str],
    data: str,
    revision: str,
    out: str,
    processes: int,
    nodes: int,
    image: str,
    node_type: str,
    cluster: list[str],
    task: TaskConfig,
    config: Output[Artifact],
    history: Output[Artifact],
) -> NamedTuple("Judged", [("verdict", str), ("reason", str)]):  # type: ignore[valid-type]
    """Pretrain, or go on where an earlier attempt stopped.

    Args:
        preset: named configuration.
        overrides: settings laid over it, each ``dotted.name=value``.
        data: the prepared dataset.
        revision: its revision; another one is other work, so this belongs to the caching key.
        out: the run directory.
        processes: training processes, where this task itself trains.
        nodes: hosts of a job that trains; 0: this task itself trains, on this machine.
        image: image of the job's pods.
        node_type: a GPU node by name (`xkd.launch.kubernetes.node_types`); empty: none.
        cluster: settings of `xkd.launch.kubernetes.config.ClusterConfig`, each ``name=value``; they override
            the task's own.
        task: what this task is given in Kubernetes; KFP fills it in.
        config: the resolved configuration.
        history: the logged metrics, one JSON object a line.

    Returns:
        The verdict on the run, and its grounds.
    """
    import os
    import shutil
    from pathlib import Path

    from xkd.config.overrides import resolve
    from xkd.config.presets import get_preset
    from xkd.launch.kubernetes.from_kfp import from_task
    from xkd.launch.launcher import launch

    judged = launch(
        resolve(get_preset(preset), None, overrides),
        Path(data),
        Path(out),
        processes,
        from_task(nodes, image, [f"node_type='{node_type}'", *cluster], task),
        os.environ.get("KFP_RUN_ID", ""),
    )
    shutil.copy(Path(out) / "config.yaml", config.path)
    shutil.copy(Path(out) / "metrics.jsonl", history.path)
    print(f"verdict: {judged.verdict}: {judged.reason}")
    return judged.verdict, judged.reason
