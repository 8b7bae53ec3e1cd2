"""plan: the evaluations of a run, one item each."""

from typing import Any

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
) -> list[dict[str, Any]]:
    """Return the items that `evaluate` takes.

    Args:
        run: the run directory; empty, before there is one: only check the arguments and return no items.
        data: directory with each dataset, prepared as ``{name}-prepared``.
        dataset: the pretraining dataset.
        downstream: names of the datasets to evaluate on; empty: `dataset`.
        encoders: names of the encoders; empty: all.
        protocols: names of the protocols; empty: all of each dataset.
        finetune_settings: `xkd.config.FinetuneConfig` overrides, each ``dotted.name=value``.
    """
    from pathlib import Path

    from xkd.config.overrides import read_settings
    from xkd.evaluation.plan import choose
    from xkd.evaluation.plan import plan as plan_run

    prepared = [Path(data, f"{name}-prepared") for name in downstream or [dataset]]
    settings = read_settings(None, finetune_settings)
    if run:
        return plan_run(Path(run), prepared, encoders, protocols, settings)
    choose(prepared, encoders, protocols, finetune=settings)
    return []
