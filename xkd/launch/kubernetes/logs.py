"""The lines of a pod, shown here as they come, each once, through restarts and broken connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from xkd.launch.kubernetes.client import FAILURES, Api

_ENDS_SOON = 5.0
"""Seconds that the last lines may take after the job ended."""


@contextmanager
def logs_shown(api: Api, pod: str) -> Iterator[None]:
    """Show a pod's lines here as long as the context lasts, and what is left of them at its end."""
    done = threading.Event()
    follower = threading.Thread(target=_follow, args=(api, pod, done), daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
    follower.join(_ENDS_SOON)


def _follow(api: Api, pod: str, done: threading.Event) -> None:
    """Print each line once; the newest line's time tells what a new connection repeats."""
    newest, heard, last, pause = "", None, False, api.pace.first
    while not last:
        last, before = done.is_set(), newest
        since = None if heard is None else int(time.monotonic() - heard) + 10
        with suppress(*FAILURES):
            for line in api.log(pod, since):
                when, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
                if _sortable(when) > newest:
                    newest, heard = _sortable(when), time.monotonic()
                    print(text, flush=True)
        # A pod that waits for its node or image has nothing to say, perhaps for long.
        pause = api.pace.first if newest != before else min(2 * pause, api.pace.longest)
        done.wait(pause)


def _sortable(when: str) -> str:
    """RFC 3339 times as words that sort: some servers leave out the zeros at their end."""
    seconds, _, fraction = when.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
