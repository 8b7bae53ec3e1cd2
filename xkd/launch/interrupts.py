"""SIGTERM and SIGINT, and signals to child processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class StopSignal:
    """Context in which SIGTERM and SIGINT only set `received`, so that a step can be finished and saved."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.received = True


@contextmanager
def signal_handlers_restored() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT at the end."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals_raised() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt on SIGINT and SystemExit on SIGTERM, once; ignore all further ones.

    No other signal interrupts the cleanup after the first one. A signal that is ignored at the start (as by
    ``nohup``) stays ignored.

    Yields:
        A function that ignores the signals from now on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may handle signals
        return
    numbers = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def stop(number: int, _frame: object) -> None:
        ignore()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    with signal_handlers_restored():
        for number in numbers:
            signal.signal(number, stop)
        yield ignore


def signal_children(number: signal.Signals, command: str = "") -> int:
    """Send a signal to the child processes whose command line contains `command`; return their number."""
    count = 0
    for child in _children():
        with suppress(ProcessLookupError, FileNotFoundError):
            if command in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(child, number)
                count += 1
    return count


def _children() -> Iterator[int]:
    """Yield the child processes of every thread."""
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError, FileNotFoundError):  # a thread may end meanwhile
            yield from map(int, (thread / "children").read_text().split())


def end_with_parent() -> None:
    """Have Linux send this process SIGTERM when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
