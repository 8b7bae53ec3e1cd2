"""The whole pipeline: check, fetch, prepare, pretrain, evaluate in a fan-out, tabulate.

kfp run submit pipelines/xkd_full.py --local
kfp --endpoint URL run submit pipelines/xkd_full.py preset=paper run=runs/paper
kfp dsl compile --py pipelines/xkd_full.py --output xkd_full.yaml
"""

from functools import partial
from typing import Any

from kfp import dsl

from components import IMAGE
from components.check import check
from components.plan import plan
from components.pretrain import pretrain
from components.release import release
from components.tabulate import tabulate
from pipelines import (
    LARGE,
    PIPELINE_CONFIG,
    PREPARE_PARALLELISM,
    SMALL,
    configure_pretraining,
    configure_task,
    get_dataset,
    with_run_id,
    xkd_evaluations,
)


@dsl.pipeline(
    name="xkd-full",
    description="Pretrain XKD, judge the run, evaluate its encoders.",
    pipeline_config=PIPELINE_CONFIG,
)
def xkd_full(
    preset: str = "toy",
    settings: list[str] = [],
    dataset: str = "embedded",
    repo: str = "",
    rev: str = "",
    expected_revision: str = "",
    embedded_clips: int = 800,
    embedded_seed: str = "0",
    prepare_settings: list[str] = [],
    downstream: list[str] = [],
    encoders: list[str] = [],
    protocols: list[str] = [],
    finetune_settings: list[str] = [],
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
    run: str = "runs/demo",
    pushgateway: str = "",
    image: str = IMAGE,
    gpu_image: str = "",
) -> None:
    """Build the graph.

    Args:
        preset: named configuration of pretraining.
        settings: overrides of the preset, for example ``["optim.lr=1e-4"]``.
        dataset: dataset to pretrain on.
        repo: data registry with the datasets, a git repository with DVC; empty: generate them, the embedded
            dataset or miniatures.
        rev: branch, tag or commit of the registry; empty: its default branch.
        expected_revision: content revision that the pretraining dataset must have; empty: any.
        embedded_clips: number of clips to generate for the embedded dataset.
        embedded_seed: seed of that generator; the seed of pretraining is the setting ``run.seed``. A string,
            because KFP rounds integers above 2**53.
        prepare_settings: overrides of the preset's preparation, for every dataset, for example
            ``["short_side=112"]``.
        downstream: datasets to evaluate on, for example ``["ucf101", "esc50"]``; empty: the pretraining
            dataset.
        encoders: encoders to evaluate (`xkd.evaluation.protocols.protocol.ENCODERS`); empty: all.
        protocols: evaluation protocols (`PROTOCOLS` in the same package); empty: all that a dataset has.
        finetune_settings: overrides for every fine-tuning, for example ``["accumulate=2"]``.
        processes: training processes, if no job is started.
        nodes: hosts of the job that trains; 0: start no job, the task itself trains, without a GPU.
        cpu, memory: per host of the job, for example "54" and "414Gi"; empty: as of `node_type`.
        gpus: GPUs per host. A string, because KFP ignores a limit that is a number.
        fetch_cpu, fetch_memory: requests and limits of each task that fetches a dataset.
        prepare_cpu, prepare_memory: the same for preparing; the cores decode in parallel.
        pretrain_cpu, pretrain_memory: limits of training without a job; the task requests only as much as
            following a job takes.
        evaluation_cpu, evaluation_memory: requests and limits of each evaluation.
        evaluation_gpus: GPUs of each evaluation, which uses all of them; "0": the CPU.
        node_type: a GPU node by name (`xkd.launch.kubernetes.config.NODE_TYPES`); sets what is not set here.
        node_selector: labels of the nodes for the job, and for evaluations with GPUs.
        tolerations: taints that these tolerate, besides that of GPU nodes (``nvidia.com/gpu``).
        cluster_settings: `xkd.launch.kubernetes.config.ClusterConfig` overrides, for example
            ``["restarts=10"]``.
        data: directory of datasets, which runs may share; each preparation has a folder of its own there.
        run: the run directory, with its scores and report.
        pushgateway: URL of a Prometheus Pushgateway that gets the scores for a minute; empty: none.
        image: image of every task without a GPU, also of the one that follows the job; the target ``cpu`` of
            the Dockerfile suffices.
        gpu_image: image of the job, and of evaluations with GPUs; empty: `image`.
    """
    get = partial(
        get_dataset,
        data=data,
        origin={"repo": repo, "rev": rev, "clips": embedded_clips, "seed": embedded_seed},
        preset=preset,
        settings=prepare_settings,
        image=image,
        fetch_size=(fetch_cpu, fetch_memory),
        prepare_size=(prepare_cpu, prepare_memory),
    )

    def report(pushgateway: str) -> dsl.PipelineTask:
        """Tabulate the scores there are."""
        task = tabulate(run=run, scores=f"{run}/scores", out=f"{run}/report", pushgateway=pushgateway)
        return configure_task(task, image, *LARGE)

    training = {
        "preset": preset,
        "settings": settings,
        "processes": processes,
        "nodes": nodes,
        "node_type": node_type,
        "cpu": cpu,
        "memory": memory,
        "gpus": gpus,
        "cluster_settings": cluster_settings,
    }
    evaluations = {
        "cpu": evaluation_cpu,
        "memory": evaluation_memory,
        "preset": preset,
        "data": data,
        "dataset": dataset,
        "downstream": downstream,
        "prepare_settings": prepare_settings,
        "encoders": encoders,
        "protocols": protocols,
        "finetune_settings": finetune_settings,
        "gpus": evaluation_gpus,
        "image": image,
        "gpu_image": gpu_image,
        "node_type": node_type,
        "node_selector": node_selector,
        "tolerations": tolerations,
    }
    # A mistake is found before anything is fetched and prepared, which may take days.
    checked = check(
        repo=repo,
        rev=rev,
        clips=embedded_clips,
        seed=embedded_seed,
        prepare_settings=prepare_settings,
        run=run,
        data=data,
        dataset=dataset,
        downstream=downstream,
        encoders=encoders,
        protocols=protocols,
        finetune_settings=finetune_settings,
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
    fetched.after(checked)
    with dsl.ParallelFor(downstream, parallelism=PREPARE_PARALLELISM) as name:
        downstream_fetched, downstream_prepared = get(name, "")
        # The pretraining dataset may be among them; two tasks must not write it at the same time.
        downstream_fetched.after(prepared)
    # Broken data is found before GPUs are busy for days, not after.
    planned = configure_task(plan(run=run, trained=False, **evaluations), image, *LARGE)
    planned.after(prepared, downstream_prepared)
    pretrained = pretrain(
        data=prepared.outputs["Output"],
        out=run,
        image=image,
        gpu_image=gpu_image,
        revision=fetched.output,
        **training,
    )
    configure_pretraining(pretrained, image, pretrain_cpu, pretrain_memory, node_selector, tolerations)
    pretrained.after(prepared, planned)
    # KFP's backend turns this into the same hook as a dsl.ExitHandler. An exit handler would also enclose the
    # loop, where some backends fail (kubeflow/pipelines issue 12390), and wait for the last evaluation.
    released = release(nodes=nodes, cluster_settings=cluster_settings)
    with_run_id(configure_task(released, image, *SMALL)).after(pretrained).ignore_upstream_failure()
    with dsl.If(pretrained.outputs["evaluate"] == "yes"):
        evaluated = xkd_evaluations.xkd_evaluations(run=run, **evaluations)
        # The report also has the reasons of failed evaluations. In KFP's backend this too is a hook, which a
        # loop cannot have: that is why the evaluations are a separate pipeline.
        report(pushgateway).after(evaluated).ignore_upstream_failure()
    with dsl.Else():
        report("")
