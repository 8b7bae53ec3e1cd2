"""Copies of metrics.jsonl in other programs' logs, made by threads that never delay or end training."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from xkd.io import one_line
from xkd.log import get_logger
from xkd.rundir import Row, Verdict

_log = get_logger(__name__)

RETRY_SECONDS = 30.0
"""Pause after a failure."""
_ROWS = 100
"""Rows that are sent at once, at most."""


class End(NamedTuple):
    """How a part of a run ended."""

    status: Literal["FINISHED", "FAILED", "KILLED"]
    """One of MLflow's; a run that was interrupted, and may be resumed, is KILLED."""
    verdict: Verdict | None = None


class Sink(Protocol):
    """A log of another program. Any exception means that it is away, or full, for now."""

    @property
    def title(self) -> str:
        """What messages call it."""

    def open(self) -> int:
        """Connect, perhaps again, and return the newest step that it has; 0 if it has none."""

    def send(self, rows: Sequence[Row]) -> None:
        """Add rows, which are newer than all that it has."""

    def end(self, end: End) -> None:
        """Add how the run ended, or was interrupted."""


class Follower:
    """Copies each row of metrics.jsonl to a sink, in a thread.

    While the sink fails, rows wait in the file: one warning is written, and the sink is tried again every
    `RETRY_SECONDS`.
    """

    def __init__(self, file: Path, sink: Sink) -> None:
        self._file, self._sink = file, sink
        self._tail: _Tail | None = None
        """None before the sink is opened."""
        self._newest = 0
        self._failing = False
        self._done = False
        self._end: End | None = None
        self._news, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name=sink.title, daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """Say that the file has a new row."""
        self._news.set()

    def close(self, end: End, seconds: float) -> None:
        """Send what is left and how the run ended, for at most so many seconds."""
        self._end = end
        self._ending.set()
        self._news.set()
        self._thread.join(seconds)
        if not self._done:
            _log.warning(
                "%s lacks the rows after step %d; rerun the command when it answers, and they are sent",
                self._sink.title,
                self._newest,
            )

    def _follow(self) -> None:
        while True:
            self._news.clear()  # before reading: the next row, or the end, sets it again
            end = self._end
            self._try(end)
            if end:
                return
            if self._failing:
                self._ending.wait(RETRY_SECONDS)
            else:
                self._news.wait()

    def _try(self, end: End | None) -> None:
        """Send all rows, and the end if there is one."""
        try:
            self._catch_up()
            if end:
                self._sink.end(end)
                self._done = True
        except Exception as error:  # of libraries and servers: anything
            self._tail = None
            if not self._failing:
                _log.warning("%s: %s; its rows wait in %s", self._sink.title, one_line(error), self._file)
            self._failing = True
            return
        if self._failing:
            _log.info("%s has all rows again", self._sink.title)
        self._failing = False

    def _catch_up(self) -> None:
        if self._tail is None:
            self._newest = self._sink.open()
            self._tail = _Tail(self._file)
        while rows := self._tail.read(_ROWS):
            if newer := [row for row in rows if row["step"] > self._newest]:
                self._sink.send(newer)
                self._newest = newer[-1]["step"]


class _Tail:
    """The rows of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self, count: int) -> list[Row]:
        """Return the next rows, at most so many; none if there are no new ones."""
        rows: list[Row] = []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while len(rows) < count and (line := file.readline()).endswith(b"\n"):  # else it is being written
                self._offset += len(line)
                with suppress(ValueError):  # truncated; `xkd.rundir.read_rows` reports it
                    rows.append(json.loads(line))
        return rows
