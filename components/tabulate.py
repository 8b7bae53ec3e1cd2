"""tabulate: a run and its scores become tables, curves and a report."""

from typing import Optional

from kfp.dsl import HTML, Artifact, Input, Markdown, Output

from components import component


@component
def tabulate(
    run: str,
    out: str,
    pushgateway: str,
    report: Output[HTML],
    tables: Output[Markdown],
    scores: Optional[Input[list[Artifact]]] = None,  # noqa: UP045 -- KFP knows only this spelling
) -> None:
    """Write the report.

    Args:
        run: the run directory.
        out: directory to write.
        pushgateway: URL of a Prometheus Pushgateway that gets the scores for a minute; empty: none.
        report: the page.
        tables: its tables alone.
        scores: scores of this run; none when it was not worth evaluating, and the report says why.
    """
    import shutil
    from pathlib import Path

    from xkd.report.tabulate import tabulate as write

    folder = Path(report.path).with_name("scores")
    folder.mkdir(parents=True)
    for score in scores or ():
        shutil.copy(score.path, folder / score.metadata["file"])
    page = write(Path(run), folder, Path(out), pushgateway)
    shutil.copy(page, report.path)
    shutil.copy(page.with_name("tables.md"), tables.path)
    print(f"{Path(tables.path).read_text()}\nreport: {page}")
