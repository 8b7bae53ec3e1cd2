"""evaluate_run: the scores of a run that tables of the supplement need."""

from components import component


@component
def evaluate_run(
    name: str, table: str, scale: str, seeds: int, settings: list[str], data: list[str], out: str
) -> None:
    """Evaluate a run of `plan_ablations`, whose arguments the others are.

    Args:
        name: the run's.
        data: prepared datasets to evaluate on.
    """
    from pathlib import Path

    from xkd.ablation.pipeline import evaluate_planned

    evaluate_planned(name, table, scale, seeds, settings, data, Path(out))
