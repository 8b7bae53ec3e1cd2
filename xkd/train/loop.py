"""The loop that pretraining and fine-tuning share: resume, save, stop on a signal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

from xkd.errors import RunInterruptedError
from xkd.launch.interrupts import stop_signals_collected
from xkd.progress import progress
from xkd.train.checkpoint import Checkpoints, Trainee

_SAVE_SECONDS = 60.0
"""Seconds of training between checkpoints that are saved by time."""
_SAVE_SHARE = 50
"""Large models take long to write: training takes at least this many times as long as saving."""


class ResumableLoop(ExitStack):
    """The steps of a training run, from its newest checkpoint to its last step.

    ::

        with ResumableLoop("pretrain", trainee, checkpoints, steps) as loop:
            for step in loop:
                ...
                if loop.save_due(step):
                    loop.save(step)

    Inside the context SIGTERM and SIGINT only make `save_due` true.

    Args:
        name: label of the progress bar.
        trainee: what is trained; the newest checkpoint is loaded into it.
        checkpoints: the run's.
        steps: number of steps of the whole run.
    """

    def __init__(self, name: str, trainee: Trainee, checkpoints: Checkpoints, steps: int) -> None:
        super().__init__()
        self._trainee, self._context, self._checkpoints = trainee, trainee.context, checkpoints
        self._name, self.steps = name, steps
        self.first = checkpoints.resume(trainee)
        """Number of steps already done."""
        self._stopping = False
        self._save_at = time.monotonic() + _SAVE_SECONDS

    def __enter__(self) -> ResumableLoop:
        bar = progress(self._name, self.steps, done=self.first, show=self._context.is_main)
        self._bar = self.enter_context(bar)
        self._stop_signals = self.enter_context(stop_signals_collected())
        return self

    def __iter__(self) -> Iterator[int]:
        """Yield the number of each remaining step, counted from 1."""
        for step in range(self.first + 1, self.steps + 1):
            yield step
            self._bar.advance()

    def note(self, text: str) -> None:
        """Show a text behind the progress bar."""
        self._bar.note(text)

    def save_due(self, step: int) -> bool:
        """Whether to save after this step, the same on every process: on schedule or because of a signal."""
        if every := self._checkpoints.every:
            due = step % every == 0
        else:
            due = self._context.is_main and time.monotonic() > self._save_at
        decision = self._context.all_reduce_max(2 if self._stop_signals else int(due))
        self._stopping = decision == 2
        return decision > 0

    def save(self, step: int) -> None:
        """Save the state after this step.

        Raises:
            RunInterruptedError: SIGTERM or SIGINT came.
        """
        begin = time.monotonic()
        if self._context.is_main:
            self._checkpoints.save(step, self._trainee)
        self._save_at = time.monotonic() + max(_SAVE_SECONDS, _SAVE_SHARE * (time.monotonic() - begin))
        if self._stopping:
            # When one process exits, torchrun kills the others: wait until the checkpoint is written.
            self._context.barrier()
            raise RunInterruptedError(f"Interrupted: saved at step {step} of {self.steps}; rerun to resume")
