"""Commands of the supplement's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xkd.cli.options import Data, Out, Set


def tables() -> None:
    """List the tables and figures that xkd ablate makes."""
    from rich.console import Console
    from rich.table import Table

    from xkd.ablation.plan import plan_runs
    from xkd.ablation.tables import all_tables

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("table", "runs", "question"):
        shown.add_column(head, justify="right" if head == "runs" else "left")
    for table in all_tables().values():
        shown.add_row(table.name, str(len(plan_runs([table], "paper", 1).runs)), table.question)
    Console(highlight=False, soft_wrap=True).print(shown)


def ablate(
    tables: Annotated[list[str], typer.Argument(help="Tables, such as S9 (see xkd tables), or all.")],
    data: Data,
    out: Out,
    scale: Annotated[
        str, typer.Option(help="small: sizes of the embedded dataset, minutes a run; paper: the paper's.")
    ] = "small",
    seeds: Annotated[int, typer.Option(help="Runs of each configuration, with the seeds 0, 1, ...")] = 1,
    downstream: Annotated[
        list[Path] | None,
        typer.Option(help="Prepared dataset to evaluate on; repeatable; default: the one of --data."),
    ] = None,
    set_: Set = None,
) -> None:
    """Train and evaluate every run of tables; rerun to resume.

    Writes ablations.html with the tables: scores, differences to the default with intervals, and the paper's.
    """
    from xkd.ablation.run import ablate as run
    from xkd.ablation.tables import find_tables

    run(find_tables(tables), scale, seeds, data, out, downstream or (), set_ or ())
