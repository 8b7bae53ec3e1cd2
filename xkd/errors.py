"""Errors that are reported as one line, and the exit code of each."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# How a command, a worker, a host's agent and its pod end: docs/reliability.md has the table.
EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_PEERS_LOST = 69
"""The other hosts of a job do not respond (EX_UNAVAILABLE of sysexits.h)."""
EXIT_NO_PROGRESS = 70
"""A job was restarted as often as it may be, without a new checkpoint."""
EXIT_BAD_NODE = 71
"""A device of a node failed the preflight (EX_OSERR)."""
EXIT_TRY_AGAIN = 75
"""Rerunning the command resumes the work (EX_TEMPFAIL)."""
EXIT_COLLAPSED = 76
EXIT_SIGNAL = 128
"""Plus the number of the signal that ended it, as in shells."""
NON_RETRYABLE_EXIT_CODES = (EXIT_USER_ERROR, EXIT_NO_PROGRESS, EXIT_BAD_NODE, EXIT_COLLAPSED)
"""Another attempt would end in the same way; after `EXIT_BAD_NODE`, on the same nodes."""


class XkdError(Exception):
    """An error that a command prints as one line, without a traceback, before it exits."""

    exit_code = EXIT_FAILURE


class UserError(XkdError):
    """A mistake the user can fix; the message names the field or file and says what to do."""

    exit_code = EXIT_USER_ERROR


class TrainingError(XkdError):
    """A worker or a job failed; rerunning the command resumes from the last checkpoint.

    Args:
        exit_code: how the worker ended.
    """

    def __init__(self, message: str, exit_code: int = EXIT_FAILURE) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class RunInterruptedError(XkdError):
    """A run was interrupted and saved its state; rerunning the command resumes it."""

    exit_code = EXIT_TRY_AGAIN


class CommandInterruptedError(XkdError):
    """A signal ended a command before its end.

    Args:
        exit_code: 128 plus the signal's number.
        notes: what is left, and what to do.
    """

    def __init__(self, exit_code: int, notes: Iterable[str] = ()) -> None:
        self.exit_code = exit_code
        ctrl_c = exit_code == EXIT_SIGNAL + signal.SIGINT
        by = "" if ctrl_c else f" by {signal.Signals(exit_code - EXIT_SIGNAL).name}"
        super().__init__("; ".join([f"interrupted{by}", *(notes or ["rerun the command to resume"])]))


class CollapsedError(XkdError):
    """A run ended before its last step because of its verdict.

    Args:
        verdict: fields of `xkd.rundir.Verdict`.
    """

    exit_code = EXIT_COLLAPSED

    def __init__(self, verdict: Mapping[str, Any]) -> None:
        self.verdict = verdict
        super().__init__(f"the run ended as {verdict['verdict']}: {verdict['reason']}")


def as_exit_code(status: int) -> int:
    """Return the exit code of a process as a shell has it; in Python, the number of a signal is negative."""
    return status if status >= 0 else EXIT_SIGNAL - status


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean a, b?)" with the closest known names, or "" when none is close."""
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(matches)}?)" if matches else ""


@contextmanager
def interruptions_as_errors() -> Iterator[None]:
    """Report what `xkd.launch.interrupts.raise_stop` raises as an error is, with the notes added to it.

    Raises:
        CommandInterruptedError: a signal came.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        code = EXIT_SIGNAL + signal.SIGINT if isinstance(error, KeyboardInterrupt) else error.code
        if not isinstance(code, int) or code <= EXIT_SIGNAL:
            raise
        raise CommandInterruptedError(code, getattr(error, "__notes__", ())) from None


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Put a prefix, such as ``file.yaml: ``, before the message of an `XkdError`."""
    try:
        yield
    except XkdError as error:
        error.args = (f"{prefix}{error}",)
        raise


@contextmanager
def extra_required(what: str, extra: str) -> Iterator[None]:
    """Report a package that cannot be imported, because it is of an extra of this one.

    Raises:
        UserError: it is missing; the line begins with `what` needs it and says how to install it.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or str(error)).partition(".")[0]
        raise UserError(f"{what} needs {name}: pip install 'xkd[{extra}]'") from None
