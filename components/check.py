"""check: whether what is asked of the evaluations can be had, before anything is trained."""

from components import component


@component
def check(
    data: str,
    dataset: str,
    downstream: list[str],
    encoders: list[str],
    protocols: list[str],
    finetune: list[str],
) -> int:
    """Count the evaluations.

    Args:
        data: directory of datasets, each prepared as ``{name}-prepared``.
        dataset: the one of the pretraining.
        downstream: which to evaluate on; empty: that one.
        encoders: which to evaluate; empty: all.
        protocols: by which; empty: all that a dataset has.
        finetune: settings of every fine-tuning, laid over its dataset's.

    Returns:
        How many there are at the most.
    """
    from pathlib import Path

    from xkd.evaluate.plan import check as count

    prepared = [Path(data, f"{name}-prepared") for name in downstream or [dataset]]
    return count(prepared, encoders, protocols, finetune)
