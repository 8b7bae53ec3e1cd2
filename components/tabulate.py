"""tabulate: a report with tables and curves of a run and its scores."""

from kfp.dsl import HTML, Markdown, Output

from components import component


@component
def tabulate(
    run: str, scores: str, out: str, pushgateway: str, report: Output[HTML], tables: Output[Markdown]
) -> None:
    """Write the report.

    Args:
        run: the run directory.
        scores: directory of the scores, and of the reasons why others failed.
        out: directory to write.
        pushgateway: URL of a Prometheus Pushgateway that gets the scores for a minute; empty: none.
        report: the page.
        tables: its tables alone.
    """
    import shutil
    from pathlib import Path

    from xkd.report.tabulate import tabulate as write

    page = write(Path(run), Path(scores), Path(out), pushgateway)
    shutil.copy(page, report.path)
    shutil.copy(page.with_name("tables.md"), tables.path)
