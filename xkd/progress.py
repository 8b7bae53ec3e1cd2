"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

_on_terminal = list[Progress]()
"""What is drawn on the terminal now, if anything: work within other work adds a line to it."""
LINE_SECONDS = (15.0, 60.0)
"""Time between two lines in a log: in the first minute, and from then on."""


class Bar:
    """The progress of one piece of work: `advance` it, and `note` what to show with it."""

    def __init__(self, bars: Progress, description: str, total: int, done: int, *, lines: bool) -> None:
        self._bars, self._lines, self._resumed_at = bars, lines, done
        self._id = bars.add_task(description, total=total, completed=done, note="")
        self._start = self._last_line = time.monotonic()

    def note(self, text: str) -> None:
        """Show a text behind the counts from now on."""
        self._bars.update(self._id, note=text)

    def remove(self) -> None:
        """Show it no longer."""
        self._bars.remove_task(self._id)

    def advance(self, count: int = 1) -> None:
        """Count work as done."""
        self._bars.advance(self._id, count)
        now = time.monotonic()
        pause = LINE_SECONDS[now - self._start >= 60]
        if self._lines and (now - self._last_line >= pause or self._bars.finished):
            self._last_line = now
            task = self._bars.tasks[0]
            elapsed = task.elapsed or 0.0
            # The mean since the start: the estimate of rich covers its last 30 seconds, maybe a step or less.
            remaining = elapsed / max(task.completed - self._resumed_at, 1) * (task.remaining or 0)
            times = [timedelta(seconds=round(seconds)) for seconds in (elapsed, remaining)]
            counts = f"{task.description}: {int(task.completed)}/{task.total}"
            note = f", {task.fields['note']}" if task.fields["note"] else ""
            print(f"{counts}, {times[0]} elapsed, {times[1]} left{note}", file=sys.stderr, flush=True)


@contextmanager
def progress(description: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """Show the progress of work on stderr.

    Args:
        done: items of `total` that an earlier run has completed.
        show: False shows nothing, as on all ranks but the main one.
    """
    if show and _on_terminal:
        bar = Bar(_on_terminal[0], description, total, done, lines=False)
        try:
            yield bar
        finally:
            bar.remove()
        return
    console = Console(stderr=True)
    note = TextColumn("{task.fields[note]}")
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), note)  # the default has the time left
    disable = not (show and console.is_terminal)
    with Progress(*columns, console=console, disable=disable) as bars:
        if not disable:
            _on_terminal.append(bars)
        try:
            yield Bar(bars, description, total, done, lines=show and disable)
        finally:
            _on_terminal.clear()
