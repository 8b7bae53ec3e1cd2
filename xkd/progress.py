"""Progress of long work: a bar with the time left on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY = 15.0


class Bar:
    """A running piece of work; `advance` it and, where something is worth saying, `note` it."""

    def __init__(self, description: str, total: int, done: int, rich: Progress | None) -> None:
        self._description, self._total, self._done, self._first = description, total, done, done
        self._rich = rich
        self._task = rich.add_task(description, total=total, completed=done, note="") if rich else None
        self._start = self._spoke = time.monotonic()
        self._note = ""

    def note(self, text: str) -> None:
        """Text shown behind the bar from now on."""
        self._note = text

    def advance(self, count: int = 1) -> None:
        """More is done."""
        self._done += count
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, completed=self._done, note=self._note)
            return
        now = time.monotonic()
        if now - self._spoke >= _LINE_EVERY or self._done == self._total:
            self._spoke = now
            gone = now - self._start
            left = gone / max(self._done - self._first, 1) * (self._total - self._done)
            line = (
                f"{self._description}: {self._done}/{self._total}, {_clock(gone)} gone, {_clock(left)} left"
            )
            print(line + (f", {self._note}" if self._note else ""), file=sys.stderr, flush=True)


@contextmanager
def progress(description: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """Show the progress of `total` pieces of work, `done` of which an earlier run has done."""
    console = Console(stderr=True)
    if not show or not console.is_terminal:
        yield Bar(description, total, done, None) if show else _Silent()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as rich:
        yield Bar(description, total, done, rich)


class _Silent(Bar):
    """The bar of every process but the first."""

    def __init__(self) -> None:
        super().__init__("", 0, 0, None)

    def advance(self, count: int = 1) -> None:
        """Says nothing."""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
