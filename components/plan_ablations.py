"""plan_ablations: the runs of tables of the supplement, and where their evaluations run."""

from typing import Any, NamedTuple

from components import component


@component
def plan_ablations(
    prepared: bool,
    table: str,
    scale: str,
    seeds: int,
    settings: list[str],
    data: str,
    dataset: str,
    downstream: list[str],
    prepare_settings: list[str],
    out: str,
    gpus: str,
    image: str,
    gpu_image: str,
    node_type: str,
    node_selector: dict[str, str],
    tolerations: list[dict[str, Any]],
) -> NamedTuple("Plan", [("Output", list), ("data", list), ("image", str), ("node_selector", dict), ("tolerations", list)]):  # type: ignore[valid-type]  # noqa: E501  # fmt: skip
    """Return the runs, the prepared datasets to evaluate on, and the image and the nodes of the evaluations.

    Args:
        prepared: False, before there is data: only check the arguments.
        table: tables by name, separated by commas, or all.
        scale: paper or small.
        seeds: number of seeds, from 0.
        settings: `xkd.config.PretrainConfig` overrides of every run, each ``dotted.name=value``.
        data: directory with each dataset's preparation (`xkd.data.shards.preparation.prepared_folder`).
        dataset: the pretraining dataset.
        downstream: names of the datasets to evaluate on; empty: `dataset`.
        prepare_settings: overrides of the preparation, as the datasets were prepared.
        out: folder of the runs and the results.
        gpus: GPUs of each evaluation; with "0", only `image` of the following applies.
        image, gpu_image, node_type, node_selector, tolerations: as of `plan`.
    """
    from pathlib import Path

    from xkd.ablation.pipeline import claim_output, find_datasets, plan_items
    from xkd.launch.kubernetes.from_kfp import place_evaluation

    items = plan_items(table, scale, seeds, settings, prepare_settings, out)
    folders = []
    if prepared:
        names = [dataset, *(downstream or [dataset])]
        found = find_datasets(scale, prepare_settings, data, names)
        claim_output(table, scale, settings, found[0], found[1:], Path(out))
        folders = [str(folder) for folder in found[1:]]
    return items, folders, *place_evaluation(gpus, image, gpu_image, node_type, node_selector, tolerations)
