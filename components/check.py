"""check: all parameters of a pipeline, before anything is fetched."""

from typing import Any

from components import component


@component
def check(
    preset: str,
    settings: list[str],
    dataset: str,
    downstream: list[str],
    repo: str,
    rev: str,
    clips: int,
    seed: str,
    prepare_settings: list[str],
    encoders: list[str],
    protocols: list[str],
    finetune_settings: list[str],
    data: str,
    run: str,
    processes: int,
    nodes: int,
    node_type: str,
    cpu: str,
    memory: str,
    gpus: str,
    fetch_cpu: str,
    fetch_memory: str,
    prepare_cpu: str,
    prepare_memory: str,
    pretrain_cpu: str,
    pretrain_memory: str,
    evaluation_cpu: str,
    evaluation_memory: str,
    evaluation_gpus: str,
    node_selector: dict[str, str],
    tolerations: list[dict[str, Any]],
    cluster_settings: list[str],
) -> None:
    """Fail at once on a name, a setting or a value that a later task would refuse; arguments as of these."""
    from pathlib import Path

    from xkd.config.presets import resolve_pretrain

    config = resolve_pretrain(preset, None, settings)  # before the imports of the rest, which take seconds

    from xkd.evaluation.check import check_datasets
    from xkd.launch.kubernetes.config import check_quantities
    from xkd.launch.kubernetes.from_kfp import cluster_of_task, place_evaluation
    from xkd.launch.launcher import check_launch

    cluster = cluster_of_task(
        nodes, cluster_settings, "xkd", node_type, {"cpu": cpu, "memory": memory, "nvidia.com/gpu": gpus}
    )
    check_launch(config, Path(run), processes, cluster)
    check_datasets(
        config,
        [dataset, *downstream],
        downstream or [dataset],
        data=Path(data),
        repo=repo,
        rev=rev,
        clips=clips,
        seed=seed,
        prepare_settings=prepare_settings,
        encoders=encoders,
        protocols=protocols,
        finetune_settings=finetune_settings,
    )
    check_quantities(
        fetch_cpu=fetch_cpu,
        fetch_memory=fetch_memory,
        prepare_cpu=prepare_cpu,
        prepare_memory=prepare_memory,
        pretrain_cpu=pretrain_cpu,
        pretrain_memory=pretrain_memory,
        evaluation_cpu=evaluation_cpu,
        evaluation_memory=evaluation_memory,
    )
    place_evaluation(evaluation_gpus, "", "", node_type, node_selector, tolerations)
