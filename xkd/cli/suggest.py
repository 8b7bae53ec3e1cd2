"""The command that suggests the settings of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from xkd.cli.options import Data


def suggest(
    data: Data,
    hours: Annotated[
        float, typer.Option(help="Time that pretraining may take; the default is a night.")
    ] = 12,
) -> None:
    """Suggest settings for your clips and this machine."""
    from xkd.suggest.suggest import suggest as choose

    suggestion = choose(data, hours)
    for line in suggestion.lines():
        print(line)
    print(f"\n{suggestion.command(data)}")
