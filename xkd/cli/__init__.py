"""The ``xkd`` command: each subcommand calls one function of the library."""

from __future__ import annotations

import sys

import typer

from xkd.cli import data, evaluation, training
from xkd.errors import XkdError
from xkd.launch.dvc import check_root, end_with_dvc, explain_resume
from xkd.launch.termination import forget_torchrun

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.command()(data.fetch)
app.command()(data.prepare)
app.command()(training.pretrain)
app.command()(training.launch)
app.command()(training.watch)
app.command()(evaluation.evaluate)
app.command()(evaluation.tasks)
app.command()(evaluation.tabulate)
app.command(name="import")(training.import_weights)
app.command()(training.presets)
app.command(name="config")(training.show_config)


def main() -> None:
    """Run the command line; an error is one line on stderr, and its exit code."""
    forget_torchrun()
    end_with_dvc()
    try:
        check_root()
        app(prog_name="xkd")
    except XkdError as error:
        print(f"xkd: {explain_resume(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
