"""plan: the evaluations of a run, one item each."""

from components import component


@component
def plan(
    run: str,
    data: str,
    dataset: str,
    downstream: list[str],
    encoders: list[str],
    protocols: list[str],
    finetune_settings: list[str],
) -> list[str]:
    """Return the items that `evaluate` takes, each as JSON.

    Inside of its own lists and dictionaries KFP makes integers floats, which rounds large ones, and its local
    runner refuses null. The JSON is a part of caching keys, so its keys are sorted.

    Args:
        run: the run directory; empty, before there is one: only check the arguments and return no items.
        data: directory with each dataset, prepared as ``{name}-prepared``.
        dataset: the pretraining dataset.
        downstream: names of the datasets to evaluate on; empty: `dataset`.
        encoders: names of the encoders; empty: all.
        protocols: names of the protocols; empty: all of each dataset.
        finetune_settings: `xkd.config.FinetuneConfig` overrides, each ``dotted.name=value``.
    """
    import json
    from pathlib import Path

    from xkd.config.overrides import read_settings
    from xkd.evaluation.plan import choose
    from xkd.evaluation.plan import plan as plan_run

    prepared = [Path(data, f"{name}-prepared") for name in downstream or [dataset]]
    settings = read_settings(None, finetune_settings)
    if run:
        items = plan_run(Path(run), prepared, encoders, protocols, settings)
        return [json.dumps(item, sort_keys=True) for item in items]
    choose(prepared, encoders, protocols, finetune=settings)
    return []
