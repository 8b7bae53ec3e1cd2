"""Signals that stop a program, and signals to child processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from xkd.errors import EXIT_SIGNAL
from xkd.parallel.processes import STOP_SIGNALS

DEBOUNCE_SECONDS = 5.0
"""Signals closer together than this count as one: a terminal and a parent process may both send it."""


@contextmanager
def signal_handlers_restored() -> Iterator[None]:
    """Restore the handlers of `STOP_SIGNALS` at the end."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals_collected() -> Iterator[list[int]]:
    """Collect `STOP_SIGNALS` in the list that this yields, so that a step can be finished and saved."""
    received = list[int]()
    with signal_handlers_restored():
        for number in stop_signals():
            signal.signal(number, lambda number, _frame: received.append(number))
        yield received


def handle_stop_signals(handle: Callable[[signal.Signals, bool], None]) -> None:
    """Call `handle` with each of `STOP_SIGNALS` and whether it is the first; several at once count as one."""
    first: float | None = None

    def debounced(number: int, _frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            handle(signal.Signals(number), True)
        elif now - first > DEBOUNCE_SECONDS:
            handle(signal.Signals(number), False)

    for number in stop_signals():
        signal.signal(number, debounced)


def stop_signals() -> list[signal.Signals]:
    """Return `STOP_SIGNALS`, without SIGHUP if it is ignored, as by ``nohup``."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or not nohup]


def raise_stop(number: int, _first: object = None) -> NoReturn:
    """Raise KeyboardInterrupt for SIGINT, and SystemExit with the code of a shell for another signal."""
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_SIGNAL + number)


@contextmanager
def stop_signals_raised() -> Iterator[Callable[[], None]]:
    """Raise as `raise_stop` does on SIGINT and SIGTERM, once; ignore all further ones.

    No other signal interrupts the cleanup after the first one. A signal that is ignored at the start (as in a
    shell's background processes) stays ignored.

    Yields:
        A function that ignores the signals from now on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may handle signals
        return
    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def stop(number: int, _frame: object) -> None:
        ignore()
        raise_stop(number)

    with signal_handlers_restored():
        for number in numbers:
            signal.signal(number, stop)
        yield ignore


def signal_children(number: signal.Signals, command: str = "") -> int:
    """Send a signal to the child processes whose command line contains `command`; return their number."""
    children, count = list[str](), 0
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError, FileNotFoundError):  # a thread may end meanwhile
            children += (thread / "children").read_text().split()
    for child in children:
        with suppress(ProcessLookupError, FileNotFoundError):
            if command in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(int(child), number)
                count += 1
    return count


def end_with_parent() -> None:
    """Have Linux send this process SIGTERM when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of prctl(2)
