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
    finetune: list[str],
) -> list[dict[str, Any]]:
    """Plan the evaluations.

    Args:
        run: the run directory.
        data: directory of datasets, each prepared as ``{name}-prepared``.
        dataset: the one of the pretraining.
        downstream: which to evaluate on; empty: that one.
        encoders: which to evaluate; empty: all.
        protocols: by which; empty: all that a dataset has.
        finetune: settings of every fine-tuning (`xkd.config.FinetuneConfig`), each ``dotted.name=value``.

    Returns:
        For each evaluation what `evaluate` takes.
    """
    from pathlib import Path

    from xkd.evaluate.plan import plan as write

    prepared = [Path(data, f"{name}-prepared") for name in downstream or [dataset]]
    return write(Path(run), prepared, encoders, protocols, finetune)
