"""Commands of the supplement's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xkd.cli.options import Config, Set


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
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables, such as S9 (see xkd tables), or all.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Prepared dataset (from xkd prepare).")] = None,
    out: Annotated[Path | None, typer.Option(help="Output directory.")] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="small (the default): sizes of the embedded dataset, minutes a run; paper."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each configuration, with the seeds 0, 1, ...; default: 1.")
    ] = None,
    downstream: Annotated[
        list[Path] | None,
        typer.Option(help="Prepared dataset to evaluate on; repeatable; default: the one of --data."),
    ] = None,
    config: Config = None,
    set_: Set = None,
    only: Annotated[
        str,
        typer.Option(
            metavar="RUN", help="Train and evaluate this run alone; or, as page, write the tables alone."
        ),
    ] = "",
    params: Annotated[
        bool,
        typer.Option("--params", help="Print these options with the list of runs for params.yaml, and end."),
    ] = False,
) -> None:
    """Train and evaluate every run of tables; rerun to resume.

    Writes ablations.html with the tables: scores, differences to the default with intervals, and the paper's.
    """
    import math
    from dataclasses import replace

    from xkd.ablation.run import ablate as run
    from xkd.ablation.settings import AblateConfig
    from xkd.config.overrides import resolve, to_dict
    from xkd.config.yaml_core import dump_yaml

    given = resolve(
        AblateConfig(),
        config,
        tables=tables,
        data=data and str(data),
        out=out and str(out),
        scale=scale,
        seeds=seeds,
        downstream=downstream and [*map(str, downstream)],
    )
    given = replace(given, settings=(*given.settings, *(set_ or ())))
    if params:
        section = {"ablations": to_dict(replace(given, runs=given.needed_runs()))}
        print(dump_yaml(section, default_flow_style=None, width=math.inf), end="")
    else:
        run(given, only)
