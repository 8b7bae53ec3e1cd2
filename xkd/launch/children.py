"""Processes that this process started, and its own end when its parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


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
