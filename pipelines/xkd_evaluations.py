"""Every evaluation of a finished run: one task per dataset, protocol, fold and encoder.

kfp run submit pipelines/xkd_evaluations.py --local run=runs/demo data=runs/data dataset=embedded
"""

from typing import Any

from kfp import dsl

from components import IMAGE
from components.evaluate import evaluate
from components.plan import plan
from pipelines import configure_task, request_gpus

PARALLELISM = 8
"""Evaluations that run at a time; KFP's local runner runs two."""


@dsl.pipeline(name="xkd-evaluations", description="Evaluate the encoders of a run in a fan-out.")
def xkd_evaluations(
    run: str,
    data: str,
    dataset: str,
    downstream: list[str] = [],
    encoders: list[str] = [],
    protocols: list[str] = [],
    finetune_settings: list[str] = [],
    gpus: str = "0",
    node_selector: dict[str, str] = {},
    tolerations: list[dict[str, Any]] = [],
    image: str = IMAGE,
) -> None:
    """Build the graph. Parameters are those of `xkd_full`; `gpus` are those of each evaluation."""
    items = plan(
        run=run,
        data=data,
        dataset=dataset,
        downstream=downstream,
        encoders=encoders,
        protocols=protocols,
        finetune_settings=finetune_settings,
    )
    # The contents of these directories are not among its inputs.
    configure_task(items, image, cache=False)
    with dsl.ParallelFor(items.output, parallelism=PARALLELISM) as item:
        # Nor is the score that another run of the pipeline may have put in the place of this one.
        score = configure_task(evaluate(run=run, item=item, out=f"{run}/scores"), image, cache=False)
        request_gpus(score, gpus, node_selector, tolerations)
