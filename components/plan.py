"""plan: the evaluations of a run, and where they run."""

from typing import Any, NamedTuple

from components import component


@component
def plan(
    run: str,
    trained: bool,
    preset: str,
    data: str,
    dataset: str,
    downstream: list[str],
    prepare_settings: list[str],
    encoders: list[str],
    protocols: list[str],
    finetune_settings: list[str],
    cpu: str,
    memory: str,
    gpus: str,
    image: str,
    gpu_image: str,
    node_type: str,
    node_selector: dict[str, str],
    tolerations: list[dict[str, Any]],
) -> NamedTuple("Plan", [("Output", list), ("image", str), ("node_selector", dict), ("tolerations", list)]):  # type: ignore[valid-type]
    """Return the items that `evaluate` takes, and the image and the nodes of its tasks.

    KFP's local runner loops over no output of another name than ``Output``.

    Args:
        run: the run directory.
        trained: False, before there is a run: only check the arguments and return no items.
        preset: the run's preset; empty: as of the run's configuration.
        data: directory with each dataset's preparation (`xkd.data.shards.preparation.prepared_folder`).
        dataset: the pretraining dataset.
        downstream: names of the datasets to evaluate on; empty: `dataset`.
        prepare_settings: overrides of the preset's preparation, as the datasets were prepared.
        encoders: names of the encoders; empty: all.
        protocols: names of the protocols; empty: all of each dataset.
        finetune_settings: `xkd.config.FinetuneConfig` overrides, each ``dotted.name=value``.
        cpu, memory: of each evaluation, checked here.
        gpus: GPUs of each evaluation; with "0", only `image` of the following applies.
        image: image of tasks without GPUs.
        gpu_image: image of those with GPUs; empty: `image`.
        node_type: a GPU node by name (`xkd.launch.kubernetes.config.NODE_TYPES`); empty: none.
        node_selector: labels of the nodes for GPU tasks; empty: those of `node_type`.
        tolerations: taints that GPU tasks tolerate, besides that of GPU nodes.
    """
    from xkd.evaluation.fan_out import fan_out, find_prepared
    from xkd.launch.kubernetes.config import check_quantities
    from xkd.launch.kubernetes.from_kfp import place_evaluation

    check_quantities(cpu=cpu, memory=memory)
    prepared = find_prepared(run, preset, prepare_settings, data, downstream or [dataset])
    items = fan_out(run, trained, prepared, encoders, protocols, finetune_settings)
    return items, *place_evaluation(gpus, image, gpu_image, node_type, node_selector, tolerations)
