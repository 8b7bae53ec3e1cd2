"""Compute the items of a generator in a thread, some ahead of their use."""

from __future__ import annotations

import threading
from collections.abc import Generator
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")

_END = object()


def compute_ahead(items: Generator[Item, None, None], depth: int) -> Generator[Item, None, None]:
    """Yield the items, computed in a thread, at most `depth` before they are used.

    The thread closes the generator when it is exhausted, raises, or is no longer used.
    """
    found: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    slots, stopped = threading.Semaphore(depth), threading.Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                found.put((item, None))
                slots.acquire()
                if stopped.is_set():
                    break
        except BaseException as raised:
            error = raised
        finally:
            items.close()
            found.put((_END, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (entry := found.get())[0] is not _END:
            slots.release()
            yield entry[0]
        if entry[1] is not None:
            raise entry[1]
    finally:
        stopped.set()
        slots.release()
        thread.join()
