"""Checkpoints that survive a crash, and the encoders a run publishes."""

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
from xkd.model.xkd import Autoencoders
from xkd.rundir import ROLES, RunDir
from xkd.weights import save_encoder


class Trainee(Protocol):
    """What is trained step by step, the same on every process."""

    context: DistributedContext

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, and what else to remember."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""


class Checkpoints:
    """The full checkpoints of one run: ``step_00000500.pt`` and so on, the last few kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, trainee: Trainee) -> None:
        """Write the state after `step` steps, then drop the oldest.

        The step's number stands for the schedules, the place in the data and all that is random: every
        draw comes from it and the seed, on however many processes.
        """
        state = {"step": step, **trainee.state_dict()}
        write_atomically(self._path(step), lambda file: torch.save(state, file))
        for old in self._paths()[: -self.keep]:
            old.unlink()

    def resume(self, trainee: Trainee) -> int:
        """Load the newest readable state, if there is any: the main process chooses, all load the same.

        An unreadable file is set aside with a warning, and so is nothing else: a run whose checkpoints all
        cannot be read must not begin anew over them.

        Returns:
            How many steps are done.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        state: dict[str, Any] | None = None
        context = trainee.context
        if context.is_main:
            for debris in self.folder.glob(".step_*"):  # of saves that were killed
                debris.unlink()
            state = self._newest_readable()
        step = context.all_reduce_max(int(state["step"]) if state else 0)
        if step:
            trainee.load_state_dict(state or _load(self._path(step)))
        return step

    def drop_after(self, step: int) -> int:
        """Remove the states after more than `step` steps, if there is one to go back to.

        Returns:
            The step of the newest that is left; 0 if there is none, and nothing was removed.
        """
        left = [path for path in self._paths() if _step(path) <= step]
        if not left:
            return 0
        for path in self._paths():
            if path not in left:
                path.unlink()
        return _step(left[-1])

    def facts(self) -> dict[str, float]:
        """``checkpoint_time``, when the newest was written, if there is one; a busy disk ends no run."""
        with suppress(OSError):
            if newest := self.newest():
                return {"checkpoint_time": newest.stat().st_mtime}
        return {}

    def newest(self) -> Path | None:
        """The newest checkpoint."""
        return max(self._paths(), default=None)

    def _newest_readable(self) -> dict[str, Any] | None:
        paths = self._paths()
        for path in reversed(paths):
            try:
                return _load(path)
            except (MemoryError, OSError):
                raise
            except Exception as error:  # whatever a torn file makes the unpickler raise
                aside = path.rename(path.with_suffix(".unreadable"))
                reason = " ".join(str(error).split())
                warnings.warn(f"{aside} is unreadable ({reason}); trying the one before", stacklevel=3)
        if paths or any(self.folder.glob("*.unreadable")):
            raise UserError(f"no checkpoint in {self.folder} can be read; remove the run to begin anew")
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.pt"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _load(path: Path) -> dict[str, Any]:
    """A state on the CPU: a GPU that holds the model already need not hold it twice."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def save_encoders(model: Autoencoders, run: Path) -> None:
    """Publish every encoder as safetensors that carry the configuration they were built from."""
    for role in ROLES:
        for m, network in getattr(model, role, {}).items():
            save_encoder(network.encoder.state_dict(), model.config, m, RunDir(run).encoder(role, m))
