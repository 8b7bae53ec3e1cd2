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

    Inside the context SIGTERM and SIGINT only make `save_due` true, and `save` end the run. Before another
    loop takes over, call `stop_if_signaled`: that one does not know of this one's signals.

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
        return self._context.all_reduce_max(int(due or bool(self._stop_signals))) > 0

    def save(self, step: int) -> None:
        """Save the state after this step.

        Raises:
            RunInterruptedError: SIGTERM or SIGINT came, perhaps while this saved.
        """
        begin = time.monotonic()
        if self._context.is_main:
            self._checkpoints.save(step, self._trainee)
        self._save_at = time.monotonic() + max(_SAVE_SECONDS, _SAVE_SHARE * (time.monotonic() - begin))
        self.stop_if_signaled(step)

    def stop_if_signaled(self, step: int) -> None:
        """End the run, whose newest checkpoint is that of this step, if a signal came to any process.

        Raises:
            RunInterruptedError: SIGTERM or SIGINT came.
        """
        # When one process exits, torchrun kills the others: this also waits until the main one has written.
        if self._context.all_reduce_max(len(self._stop_signals)):
            raise RunInterruptedError(f"Interrupted: saved at step {step} of {self.steps}; rerun to resume")
