"""A command as the stage of a DVC pipeline."""

from __future__ import annotations

import os
import select
import signal
import threading
from contextlib import suppress
from pathlib import Path

from xkd.errors import UserError

_STAGE = "DVC_STAGE"
"""Environment variable with the stage's name, which DVC sets."""
_REMOVED = ("fetch", "prepare", "pretrain")
"""Stages whose unfinished work is in their outputs, which DVC removes before it runs them again."""


def in_stage() -> bool:
    """Return whether this process is of a stage of DVC's."""
    return _STAGE in os.environ


def check_root() -> None:
    """Check that DVC can store this stage's outputs, before hours of work are lost with them.

    DVC takes the path of its cache for a format string, and fails after the stage's command has ended.

    Raises:
        UserError: the path of the repository has a brace.
    """
    root = os.environ.get("DVC_ROOT", "")
    if in_stage() and set("{}") & set(root):
        raise UserError(f"{root} has a brace in its path, with which DVC fails to store outputs; rename it")


def end_with_dvc() -> None:
    """Have this process end with the dvc that started it: SIGTERM ends dvc, but not its stage's command.

    A shell may be between the two, and would live on: the death of the parent says nothing.
    """
    if in_stage():
        with suppress(OSError, AttributeError):  # Linux only
            dvc = os.pidfd_open(_find_dvc())
            threading.Thread(target=_end_with, args=[dvc], daemon=True).start()


def _find_dvc() -> int:
    """Return the process ID of the nearest ancestor that is not of this stage."""
    variable = f"{_STAGE}={os.environ[_STAGE]}".encode()
    ancestor = os.getppid()
    while variable in Path(f"/proc/{ancestor}/environ").read_bytes().split(b"\0"):
        ancestor = int(Path(f"/proc/{ancestor}/stat").read_text().rpartition(")")[2].split()[1])
    return ancestor


def _end_with(process: int) -> None:
    """Send SIGTERM to this process when another one, given by a file descriptor, ends."""
    select.select([process], [], [])
    os.kill(os.getpid(), signal.SIGTERM)


def explain_resume(message: str) -> str:
    """Return an error's message; where it says that rerunning resumes, add that `dvc repro` does not."""
    stage = os.environ.get(_STAGE, "")
    if "to resume" not in message or not stage.startswith(_REMOVED):
        return message
    command = f"run the stage's command itself, then dvc commit --force {stage}"
    return f"{message} (dvc repro would start over: {command})"
