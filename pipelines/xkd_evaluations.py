"""Every evaluation of a finished run: each dataset, protocol, fold and encoder.

kfp run submit pipelines/xkd_evaluations.py --local run=runs/demo data=runs/data dataset=embedded
"""

from typing import Any

from kfp import dsl

from components import IMAGE
from components.evaluate import evaluate
from components.plan import plan
from pipelines import LARGE, PIPELINE_CONFIG, configure_task, place, request_gpus

PARALLELISM = 8
"""Evaluations that run at a time; KFP's local runner runs two."""


@dsl.pipeline(
    name="xkd-evaluations",
    description="Evaluate the encoders of a run in a fan-out.",
    pipeline_config=PIPELINE_CONFIG,
)
def xkd_evaluations(
    run: str,
    data: str,
    dataset: str,
    downstream: list[str] = [],
    preset: str = "",
    prepare_settings: list[str] = [],
    encoders: list[str] = [],
    protocols: list[str] = [],
    finetune_settings: list[str] = [],
    cpu: str = "4",
    memory: str = "16Gi",
    gpus: str = "0",
    node_type: str = "",
    node_selector: dict[str, str] = {},
    tolerations: list[dict[str, Any]] = [],
    image: str = IMAGE,
    gpu_image: str = "",
) -> None:
    """Build the graph.

    Parameters are those of `xkd_full`, with which the datasets were prepared; an empty `preset` is the run's.
    `cpu`, `memory`, `gpus`: of each evaluation.
    """
    planned = plan(
        run=run,
        trained=True,
        preset=preset,
        data=data,
        dataset=dataset,
        downstream=downstream,
        prepare_settings=prepare_settings,
        encoders=encoders,
        protocols=protocols,
        finetune_settings=finetune_settings,
        cpu=cpu,
        memory=memory,
        gpus=gpus,
        image=image,
        gpu_image=gpu_image,
        node_type=node_type,
        node_selector=node_selector,
        tolerations=tolerations,
    )
    configure_task(planned, image, *LARGE)
    with dsl.ParallelFor(planned.outputs["Output"], parallelism=PARALLELISM) as item:
        score = evaluate(run=run, item=item, finetune_settings=finetune_settings, out=f"{run}/scores")
        configure_task(score, planned.outputs["image"], cpu, memory)
        request_gpus(score, gpus)
        place(score, planned.outputs["node_selector"], planned.outputs["tolerations"])
