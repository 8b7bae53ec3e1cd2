"""Checkpoints that survive crashes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from xkd.errors import UserError
from xkd.io import write_atomically
from xkd.launch.distributed import DistributedContext
from xkd.weights import load_reason


class Trainee(Protocol):
    """A model in training with its optimizer, the same on every process."""

    context: DistributedContext

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""


class Checkpoints:
    """The checkpoints of a run, ``step_00000500.pt`` and so on.

    Args:
        folder: that holds them.
        keep: number of the newest checkpoints that are kept.
        every: steps between two checkpoints; None: save about once a minute.
    """

    def __init__(self, folder: Path, keep: int, every: int | None = None) -> None:
        self.folder, self.keep, self.every = folder, keep, every

    def save(self, step: int, trainee: Trainee) -> None:
        """Write the state after `step` steps, then delete the oldest checkpoints."""
        # Schedules, the position in the data and all random draws follow from the step's number and the seed.
        state = {"step": step, **trainee.state_dict()}
        write_atomically(self._path(step), lambda file: torch.save(state, file))
        for old in self._paths()[: -self.keep]:
            old.unlink()

    def resume(self, trainee: Trainee) -> int:
        """Load the newest readable state, if there is any, and return the number of steps done.

        The main process chooses the state. An unreadable file is renamed to ``.unreadable``, with a warning.

        Raises:
            UserError: there are checkpoints but none is readable; the run is not restarted over them.
        """
        state: dict[str, Any] | None = None
        context = trainee.context
        if context.is_main:
            for temporary in self.folder.glob(".step_*"):  # left by saves that were killed
                temporary.unlink()
            state = self._newest_readable()
        step = context.all_reduce_max(int(state["step"]) if state else 0)
        if step:
            trainee.load_state_dict(state or _load(self._path(step)))
        return step

    def newest_until(self, step: int) -> int:
        """Return the step of the newest checkpoint that is not after `step`; 0 if there is none."""
        return max((saved for saved in map(_step, self._paths()) if saved <= step), default=0)

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints after `step`."""
        for path in self._paths():
            if _step(path) > step:
                path.unlink()

    def newest_time(self) -> float | None:
        """Return the Unix time at which the newest checkpoint was written; None if that is unknown."""
        with suppress(OSError, IndexError):  # a busy file server must not end a run
            return self._paths()[-1].stat().st_mtime
        return None

    def _newest_readable(self) -> dict[str, Any] | None:
        paths = self._paths()
        for path in reversed(paths):
            try:
                return _load(path)
            except (MemoryError, OSError):
                raise
            except Exception as error:  # the unpickler raises anything on a truncated file
                aside = path.rename(path.with_suffix(".unreadable"))
                message = f"{aside} is unreadable ({load_reason(error)}); trying the previous one"
                warnings.warn(message, stacklevel=3)
        if paths or any(self.folder.glob("*.unreadable")):
            raise UserError(f"no checkpoint in {self.folder} is readable; delete the run to restart it")
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _load(path: Path) -> dict[str, Any]:
    """Load a state to the CPU: the GPU holds the model already and may lack memory for a second one."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
