"""pretrain: XKD on prepared clips, on this machine or as a job on several nodes."""

from typing import NamedTuple

from kfp.dsl import Artifact, Output, TaskConfig, TaskConfigField, TaskConfigPassthrough

from components import component


# The task's Kubernetes settings are passed on to the job's pods. The task's own pod starts and follows the
# job; it needs the volumes and the environment, but no place on a GPU node. The resources are its own; those
# of the job are ordinary parameters.
@component(
    task_config_passthroughs=[
        TaskConfigField.KUBERNETES_TOLERATIONS,
        TaskConfigField.KUBERNETES_NODE_SELECTOR,
        TaskConfigField.KUBERNETES_AFFINITY,
        TaskConfigPassthrough(field=TaskConfigField.RESOURCES, apply_to_task=True),
        TaskConfigPassthrough(field=TaskConfigField.ENV, apply_to_task=True),
        TaskConfigPassthrough(field=TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ]
)
def pretrain(
    preset: str,
    settings: list[str],
    data: str,
    revision: str,
    out: str,
    processes: int,
    nodes: int,
    image: str,
    gpu_image: str,
    node_type: str,
    cpu: str,
    memory: str,
    gpus: str,
    cluster_settings: list[str],
    task: TaskConfig,
    config: Output[Artifact],
    history: Output[Artifact],
) -> NamedTuple("Outcome", [("verdict", str), ("reason", str), ("evaluate", str)]):  # type: ignore[valid-type]
    """Pretrain, or resume an earlier attempt; return the verdict, its reason, and whether to evaluate.

    Args:
        preset: named configuration.
        settings: overrides of the preset, each ``dotted.name=value``.
        data: the prepared dataset.
        revision: its revision, for the record.
        out: the run directory.
        processes: training processes, if the task itself trains.
        nodes: hosts of the job that trains; 0: the task itself trains, on this machine.
        image: image of the task itself.
        gpu_image: image of the job's pods; empty: `image`.
        node_type: a GPU node by name (`xkd.launch.kubernetes.config.NODE_TYPES`); empty: none.
        cpu, memory: quantities of each of the job's pods; empty: those of `node_type`.
        gpus: GPUs of each of the job's pods.
        cluster_settings: `xkd.launch.kubernetes.config.ClusterConfig` overrides, each ``name=value``.
        task: the task's Kubernetes settings; KFP fills it in.
        config: the resolved configuration.
        history: the logged metrics, one JSON object per line.
    """
    import shutil
    from pathlib import Path

    from xkd.config.presets import resolve_pretrain
    from xkd.launch.kubernetes.from_kfp import cluster_of_task, pretrain_task
    from xkd.rundir import RunDir

    verdict, reason, evaluate = pretrain_task(
        resolve_pretrain(preset, None, settings),
        Path(data),
        Path(out),
        processes,
        cluster_of_task(
            nodes,
            cluster_settings,
            gpu_image or image,
            node_type,
            {"cpu": cpu, "memory": memory, "nvidia.com/gpu": gpus},
            task,
        ),
    )
    for file, artifact in ((RunDir(out).config_file, config), (RunDir(out).metrics_file, history)):
        if file.exists():  # unless only the job's pods see the directory
            shutil.copy(file, artifact.path)
    print(f"verdict: {verdict}: {reason}")
    return verdict, reason, evaluate
