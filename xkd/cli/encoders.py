"""Commands that use the encoders of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from xkd.cli.options import Run


def embed(
    clips: Annotated[
        list[Path], typer.Argument(help="Media files, tars or folders of them, or prepared datasets.")
    ],
    run: Run,
    out: Annotated[Path, typer.Option(help="Table to write: a .parquet or .npz file.")],
    rows: Annotated[
        Literal["window", "clip"],
        typer.Option(help="A row per window, or per clip: the means of its windows."),
    ] = "window",
    role: Annotated[
        Literal["teacher", "student"] | None,
        typer.Option(help="Encoders to use; default: the teachers, if the run has any."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=0, help="Processes on this machine; 0: one per GPU, or a single one.")
    ] = 0,
) -> None:
    """Write the features of clips as a table; rerun to resume."""
    from xkd.embedding.embed import embed as write

    write(run, clips, out, rows=rows, role=role, processes=processes)


def search(
    query: Annotated[Path, typer.Argument(help="A media file.")],
    index: Annotated[Path, typer.Option(help="Table of embeddings (from xkd embed).")],
    k: Annotated[int, typer.Option("--k", help="Number of clips to show of each kind.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Page with pictures to write (.html).")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run directory with the table's encoders; default: where it was.")
    ] = None,
) -> None:
    """Show the clips nearest to a file, within and across modalities."""
    from xkd.embedding.page import show, write_page
    from xkd.embedding.search import search as find

    found = find(index, query, k, run)
    show(found)
    if out:
        write_page(query, found, out)
        print(f"page: {out}")
