"""The ``xkd`` command: each subcommand calls one function of the library."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from xkd import __version__
from xkd.cli import ablation, data, encoders, evaluation, export, suggest, training
from xkd.errors import UserError, XkdError, interruptions_as_errors, nearest
from xkd.launch.dvc import check_root, end_with_dvc, explain_resume
from xkd.launch.interrupts import handle_stop_signals, raise_stop, signal_handlers_restored
from xkd.launch.termination import forget_torchrun

_UsageError: Any = typer.BadParameter.__mro__[1]
"""The base of errors about options and arguments: of click, or of newer versions of Typer themselves."""


class _Commands(TyperGroup):
    """The commands, each of which a signal or a wrong option ends as an error does: in one line."""

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the options before the command."""
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except _UsageError as error:
            if not given:  # which shows the help
                raise
            raise _as_user_error(error, "xkd") from None

    def invoke(self, ctx: Any) -> Any:
        """Run the given command."""
        try:
            with interruptions_as_errors():
                return super().invoke(ctx)
        except _UsageError as error:
            raise _as_user_error(error, f"xkd {ctx.invoked_subcommand or ''}".rstrip()) from None


def _as_user_error(error: Any, command: str) -> UserError:
    """Return a wrong option or argument as an error of one line."""
    from xkd.config.overrides import plain_problem

    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        known = [name for parameter in error.ctx.command.params for name in parameter.opts]
        message = f"no option {error.option_name}{nearest(error.option_name, known)}"
    else:
        message = plain_problem(error.format_message())
    return UserError(f"{message[:1].lower()}{message[1:].rstrip('.')}; see {command} --help")


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"xkd {__version__}")
        raise typer.Exit


@app.callback()
def _xkd(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Pretrain a video and an audio encoder on unlabeled videos, detect collapse, and evaluate the encoders.

    The usual order: fetch a dataset or take your own videos, prepare, pretrain, evaluate, tabulate.
    """


app.command()(data.fetch)
app.command()(data.prepare)
app.command()(suggest.suggest)
app.command()(training.pretrain)
app.command()(training.launch)
app.command()(training.watch)
app.command()(evaluation.evaluate)
app.command()(evaluation.tasks)
app.command()(evaluation.tabulate)
app.command()(ablation.tables)
app.command()(ablation.ablate)
app.command()(encoders.embed)
app.command()(encoders.search)
app.command()(export.export)
app.command(name="import")(training.import_weights)
app.command()(training.presets)
app.command(name="config")(training.show_config)


def main() -> None:
    """Run the command line; an error is one line on stderr, and its exit code."""
    forget_torchrun()
    with signal_handlers_restored():
        handle_stop_signals(raise_stop)
        end_with_dvc()
        try:
            check_root()
            with interruptions_as_errors():  # here too, as Typer takes time before it invokes anything
                app(prog_name="xkd")
        except XkdError as error:
            print(f"xkd: {explain_resume(str(error))}", file=sys.stderr)
            sys.exit(error.exit_code)
