"""Handling of SIGTERM and SIGINT."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
