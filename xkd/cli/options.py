"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Preset = Annotated[
    str | None,
    typer.Option(help="Preset (see xkd presets); default: the file's preset, or paper."),
]
Config = Annotated[
    str | None, typer.Option(metavar="FILE[:SECTION]", help="YAML file with settings, or a section of one.")
]
DatasetEntry = Annotated[
    str | None,
    typer.Option(metavar="FILE[:SECTION]", help="YAML file with the dataset's repo, rev and layout."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as optim.lr=1e-4; repeatable."),
]
Out = Annotated[Path, typer.Option(help="Output directory.")]
Data = Annotated[Path, typer.Option(help="Prepared dataset (from xkd prepare).")]
Extend = Annotated[
    bool, typer.Option("--extend", help="Continue a run for more epochs, given as optim.epochs.")
]
Run = Annotated[Path, typer.Option(help="Run directory (from xkd pretrain).")]
