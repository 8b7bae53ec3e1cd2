"""tabulate_ablations: the tables of ablations."""

from kfp.dsl import HTML, Markdown, Output

from components import component


@component
def tabulate_ablations(
    table: str,
    scale: str,
    seeds: int,
    settings: list[str],
    data: str,
    dataset: str,
    downstream: list[str],
    prepare_settings: list[str],
    out: str,
    report: Output[HTML],
    tables: Output[Markdown],
) -> None:
    """Write the tables of the runs there are; arguments as of `plan_ablations`.

    Args:
        report: the page.
        tables: its tables alone.
    """
    import shutil
    from pathlib import Path

    from xkd.ablation.pipeline import tabulate_planned

    names = downstream or [dataset]
    page = tabulate_planned(table, scale, seeds, settings, data, names, prepare_settings, Path(out))
    shutil.copy(page, report.path)
    shutil.copy(page.with_suffix(".md"), tables.path)
