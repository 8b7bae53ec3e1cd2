"""Waiting for what another thread or process does."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path


def until(condition: Callable[[], object]) -> None:
    """Wait for something that takes seconds, or else fail."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.02)


def handles(pid: int, number: signal.Signals) -> bool:
    """Return whether a process handles a signal yet."""
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) & 1 << number - 1)
