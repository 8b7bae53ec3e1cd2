"""Every evaluation of a finished run: a task for each dataset, protocol, fold and encoder.

kfp run submit pipelines/xkd_evaluations.py --local run=runs/demo data=runs/data dataset=embedded
"""

from kfp import dsl

from components import IMAGE
from components.evaluate import evaluate
from components.plan import plan
from pipelines import place, place_on_gpus
from xkd.launch.kubernetes.node_types import TOLERATIONS

AT_ONCE = 8
"""Evaluations that run at a time; on one machine KFP runs two."""


@dsl.pipeline(name="xkd-evaluations", description="Evaluate the encoders of a run in a fan-out.")
def xkd_evaluations(
    run: str,
    data: str,
    dataset: str,
    downstream: list[str] = [],  # noqa: B006 -- KFP reads the default, nobody appends to it
    encoders: list[str] = [],  # noqa: B006
    protocols: list[str] = [],  # noqa: B006
    finetune: list[str] = [],  # noqa: B006
    gpus: str = "0",
    node_selector: dict[str, str] = {},  # noqa: B006
    tolerations: list[dict[str, str]] = list(TOLERATIONS),  # noqa: B006
    image: str = IMAGE,
) -> None:
    """The graph.

    Args:
        run: the run directory; scores go to its folder of that name.
        data: directory of datasets, each prepared as ``{name}-prepared``.
        dataset: the one of the pretraining.
        downstream: which to evaluate on; empty: that one.
        encoders: which to evaluate; empty: all.
        protocols: by which; empty: all that a dataset has.
        finetune: settings of every fine-tuning, laid over its dataset's.
        gpus: GPUs of each evaluation, as a string; "0": the CPU.
        node_selector: labels that their nodes must have.
        tolerations: taints that these may have.
        image: image of every task.
    """
    planned = place(
        plan(
            run=run,
            data=data,
            dataset=dataset,
            downstream=downstream,
            encoders=encoders,
            protocols=protocols,
            finetune=finetune,
        ),
        image,
    )
    # It reads what is in these directories, which no input tells.
    planned.set_caching_options(enable_caching=False)
    with dsl.ParallelFor(planned.output, parallelism=AT_ONCE) as item:
        scored = place(evaluate(run=run, item=item, out=f"{run}/scores"), image)
        place_on_gpus(scored, gpus, node_selector, tolerations)
