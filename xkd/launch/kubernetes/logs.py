"""Show a pod's log lines once each, through restarts and broken connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from xkd.launch.kubernetes.client import FAILURES, Api

_FLUSH_SECONDS = 5.0
"""Time that the last lines may take after the job ended."""


@contextmanager
def logs_shown(api: Api, pod: str) -> Iterator[None]:
    """Print a pod's lines while the context lasts, and the remaining ones at its end."""
    done = threading.Event()
    follower = threading.Thread(target=_follow, args=(api, pod, done), daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
    follower.join(_FLUSH_SECONDS)


def _follow(api: Api, pod: str, done: threading.Event) -> None:
    """Print each line once: a new connection repeats lines, none of them newer than those printed."""
    newest, received, last, pause = "", None, False, api.policy.first
    while not last:
        last, before = done.is_set(), newest
        since = None if received is None else int(time.monotonic() - received) + 10
        with suppress(*FAILURES):
            for line in api.log_lines(pod, since):
                timestamp, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
                if _sortable(timestamp) > newest:
                    newest, received = _sortable(timestamp), time.monotonic()
                    print(text, flush=True)
        # A pod that waits for its node or image may have no lines for a long time.
        pause = api.policy.next_pause(pause, changed=newest != before)
        done.wait(pause)


def _sortable(timestamp: str) -> str:
    """Return an RFC 3339 time as text that sorts: some servers omit trailing zeros."""
    seconds, _, fraction = timestamp.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
