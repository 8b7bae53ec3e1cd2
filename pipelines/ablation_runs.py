"""The loop of `xkd_ablations`: train and evaluate its runs, a few at a time."""

from typing import Any

from kfp import dsl

from components.evaluate_run import evaluate_run
from components.pretrain import pretrain
from pipelines import PIPELINE_CONFIG, configure_pretraining, configure_task, place, request_gpus

PARALLELISM = 4
"""Runs that are trained or evaluated at a time; KFP's local runner does two."""


@dsl.pipeline(name="ablation-runs", description="Train and evaluate runs.", pipeline_config=PIPELINE_CONFIG)
def ablation_runs(
    runs: list,  # type: ignore[type-arg] # KFP has no type for a dictionary's values in a loop
    table: str,
    scale: str,
    seeds: int,
    settings: list[str],
    prepared: str,
    revision: str,
    evaluated_on: list[str],
    out: str,
    processes: int,
    nodes: int,
    node_type: str,
    cpu: str,
    memory: str,
    gpus: str,
    cluster_settings: list[str],
    pretrain_cpu: str,
    pretrain_memory: str,
    evaluation_cpu: str,
    evaluation_memory: str,
    evaluation_gpus: str,
    evaluation_image: str,
    evaluation_node_selector: dict[str, str],
    evaluation_tolerations: list[dict[str, Any]],
    node_selector: dict[str, str],
    tolerations: list[dict[str, Any]],
    image: str,
    gpu_image: str,
) -> None:
    """Build the graph: a pipeline of its own, because the results follow it however it ends, and no loop."""
    with dsl.ParallelFor(runs, parallelism=PARALLELISM) as item:
        trained = pretrain(
            preset=item.preset,
            settings=item.settings,
            data=prepared,
            revision=revision,
            out=item.out,
            processes=processes,
            nodes=nodes,
            image=image,
            gpu_image=gpu_image,
            node_type=node_type,
            cpu=cpu,
            memory=memory,
            gpus=gpus,
            cluster_settings=cluster_settings,
        )
        configure_pretraining(trained, image, pretrain_cpu, pretrain_memory, node_selector, tolerations)
        # Also of a run that collapsed: its scores tell what the verdict is worth.
        scored = evaluate_run(
            name=item.run,
            table=table,
            scale=scale,
            seeds=seeds,
            settings=settings,
            data=evaluated_on,
            out=out,
        ).after(trained)
        configure_task(scored, evaluation_image, evaluation_cpu, evaluation_memory)
        request_gpus(scored, evaluation_gpus)
        place(scored, evaluation_node_selector, evaluation_tolerations)
