"""A command as the stage of a DVC pipeline."""

from __future__ import annotations

import os

from xkd.launch.interrupts import end_with_parent

_STAGE = "DVC_STAGE"
"""Environment variable with the stage's name, which DVC sets."""
_REMOVED = ("fetch", "prepare", "pretrain")
"""Stages whose unfinished work is in their outputs, which DVC removes before it runs them again."""


def end_with_dvc() -> None:
    """Have this process end with the dvc that started it: SIGTERM ends dvc, but not its stage's command."""
    if _STAGE in os.environ:
        end_with_parent()


def explain_resume(message: str) -> str:
    """Return an error's message; where it says that rerunning resumes, add that `dvc repro` does not."""
    stage = os.environ.get(_STAGE, "")
    if "to resume" not in message or not stage.startswith(_REMOVED):
        return message
    command = f"run the stage's command itself, then dvc commit --force {stage}"
    return f"{message} (dvc repro would start over: {command})"
