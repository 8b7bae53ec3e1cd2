"""The command that exports an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from xkd.cli.options import Run


def export(
    run: Run,
    modality: Annotated[Literal["video", "audio"], typer.Option(help="Modality of the encoder.")],
    out: Annotated[Path, typer.Option(help="File to write; for safetensors, a folder.")],
    kind: Annotated[
        Literal["onnx", "torch-export", "safetensors"], typer.Option("--format", help="Kind of file.")
    ] = "onnx",
    role: Annotated[
        Literal["teacher", "student"], typer.Option(help="Which of the run's encoders.")
    ] = "teacher",
) -> None:
    """Export an encoder with its front end, and write a model card."""
    from xkd.export.export import BATCHES, TOLERANCE
    from xkd.export.export import export as write

    exported = write(run, modality, out, kind, role)
    print(f"{exported.file}\n{exported.card}")
    if exported.difference is not None:
        batches = ", ".join(map(str, BATCHES))
        print(
            f"largest difference to the encoder on random batches of {batches}: {exported.difference:.1e} "
            f"(accepted below {TOLERANCE:g})"
        )
