"""Tables of the supplement: fetch, prepare, train and evaluate every run, tabulate.

kfp run submit pipelines/xkd_ablations.py --local table=S13
kfp --endpoint URL run submit pipelines/xkd_ablations.py table=S9 scale=paper seeds=1 nodes=4 ...
"""

from functools import partial
from typing import Any

from kfp import dsl

from components import IMAGE
from components.check import check
from components.plan_ablations import plan_ablations
from components.release import release
from components.tabulate_ablations import tabulate_ablations
from pipelines import (
    LARGE,
    PIPELINE_CONFIG,
    PREPARE_PARALLELISM,
    SMALL,
    ablation_runs,
    configure_task,
    get_dataset,
    with_run_id,
)


@dsl.pipeline(
    name="xkd-ablations",
    description="Make tables of the supplement: train and evaluate their runs.",
    pipeline_config=PIPELINE_CONFIG,
)
def xkd_ablations(
    table: str,
    scale: str = "small",
    seeds: int = 1,
    settings: list[str] = [],
    dataset: str = "embedded",
    repo: str = "",
    rev: str = "",
    expected_revision: str = "",
    embedded_clips: int = 800,
    embedded_seed: str = "0",
    prepare_settings: list[str] = [],
    downstream: list[str] = [],
    processes: int = 1,
    nodes: int = 0,
    cpu: str = "",
    memory: str = "",
    gpus: str = "8",
    fetch_cpu: str = "2",
    fetch_memory: str = "4Gi",
    prepare_cpu: str = "4",
    prepare_memory: str = "8Gi",
    pretrain_cpu: str = "4",
    pretrain_memory: str = "8Gi",
    evaluation_cpu: str = "4",
    evaluation_memory: str = "16Gi",
    evaluation_gpus: str = "0",
    node_type: str = "",
    node_selector: dict[str, str] = {},
    tolerations: list[dict[str, Any]] = [],
    cluster_settings: list[str] = [],
    data: str = "runs/data",
    out: str = "runs/ablations",
    image: str = IMAGE,
    gpu_image: str = "",
) -> None:
    """Build the graph; parameters that are not listed are those of `xkd_full`.

    Args:
        table: tables by name (`xkd tables`), separated by commas, or all.
        scale: paper, or small for the embedded dataset (docs/ablations.md).
        seeds: runs of each configuration, with the seeds 0, 1, ...
        settings: overrides of every run.
        out: folder of the runs and the results.
    """
    training = {
        "settings": settings,
        "processes": processes,
        "nodes": nodes,
        "node_type": node_type,
        "cpu": cpu,
        "memory": memory,
        "gpus": gpus,
        "cluster_settings": cluster_settings,
    }
    planning = {
        "table": table,
        "scale": scale,
        "seeds": seeds,
        "settings": settings,
        "data": data,
        "dataset": dataset,
        "downstream": downstream,
        "prepare_settings": prepare_settings,
        "out": out,
        "gpus": evaluation_gpus,
        "image": image,
        "gpu_image": gpu_image,
        "node_type": node_type,
        "node_selector": node_selector,
        "tolerations": tolerations,
    }
    get = partial(
        get_dataset,
        data=data,
        origin={"repo": repo, "rev": rev, "clips": embedded_clips, "seed": embedded_seed},
        preset=f"paper@{scale}",
        settings=prepare_settings,
        image=image,
        fetch_size=(fetch_cpu, fetch_memory),
        prepare_size=(prepare_cpu, prepare_memory),
    )
    # A mistake is found before anything is fetched and prepared, which may take days.
    planned_early = configure_task(plan_ablations(prepared=False, **planning), image, *LARGE)
    checked = check(
        preset=f"paper@{scale}",
        repo=repo,
        rev=rev,
        clips=embedded_clips,
        seed=embedded_seed,
        prepare_settings=prepare_settings,
        run=out,
        data=data,
        dataset=dataset,
        downstream=downstream,
        encoders=[],
        protocols=[],
        finetune_settings=[],
        fetch_cpu=fetch_cpu,
        fetch_memory=fetch_memory,
        prepare_cpu=prepare_cpu,
        prepare_memory=prepare_memory,
        pretrain_cpu=pretrain_cpu,
        pretrain_memory=pretrain_memory,
        evaluation_cpu=evaluation_cpu,
        evaluation_memory=evaluation_memory,
        evaluation_gpus=evaluation_gpus,
        node_selector=node_selector,
        tolerations=tolerations,
        **training,
    )
    configure_task(checked, image, *LARGE)
    fetched, prepared = get(dataset, expected_revision)
    fetched.after(checked, planned_early)
    with dsl.ParallelFor(downstream, parallelism=PREPARE_PARALLELISM) as name:
        downstream_fetched, downstream_prepared = get(name, "")
        # The pretraining dataset may be among them; two tasks must not write it at the same time.
        downstream_fetched.after(prepared)
    planned = configure_task(plan_ablations(prepared=True, **planning), image, *LARGE)
    planned.after(prepared, downstream_prepared)
    ended = ablation_runs.ablation_runs(
        runs=planned.outputs["Output"],
        table=table,
        scale=scale,
        seeds=seeds,
        prepared=prepared.outputs["Output"],
        revision=fetched.output,
        evaluated_on=planned.outputs["data"],
        out=out,
        pretrain_cpu=pretrain_cpu,
        pretrain_memory=pretrain_memory,
        evaluation_cpu=evaluation_cpu,
        evaluation_memory=evaluation_memory,
        evaluation_gpus=evaluation_gpus,
        evaluation_image=planned.outputs["image"],
        evaluation_node_selector=planned.outputs["node_selector"],
        evaluation_tolerations=planned.outputs["tolerations"],
        node_selector=node_selector,
        tolerations=tolerations,
        image=image,
        gpu_image=gpu_image,
        **training,
    )
    released = release(nodes=nodes, cluster_settings=cluster_settings)
    with_run_id(configure_task(released, image, *SMALL)).after(ended).ignore_upstream_failure()
    tabulated = tabulate_ablations(
        table=table,
        scale=scale,
        seeds=seeds,
        settings=settings,
        data=data,
        dataset=dataset,
        downstream=downstream,
        prepare_settings=prepare_settings,
        out=out,
    )
    configure_task(tabulated, image, *LARGE).after(ended).ignore_upstream_failure()
