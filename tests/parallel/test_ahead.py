"""Items computed in a thread arrive in order; errors and an early end reach the generator."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from xkd.parallel.ahead import compute_ahead


def test_items_arrive_in_order_and_only_some_are_computed_ahead() -> None:
    made: list[int] = []

    def items() -> Generator[int, None, None]:
        for number in range(20):
            made.append(number)
            yield number

    ahead = compute_ahead(items(), 3)
    assert next(ahead) == 0
    deadline = time.monotonic() + 30
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 5  # one used, three ahead, and one that waits for a place
    assert list(ahead) == list(range(1, 20))


def test_an_error_is_raised_after_the_items_before_it() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        raise ValueError("broken")

    ahead = compute_ahead(items(), 3)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_a_generator_that_is_no_longer_used_is_closed_in_its_thread() -> None:
    closed: list[threading.Thread] = []

    def items() -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread())

    ahead = compute_ahead(items(), 2)
    assert next(ahead) == 1
    ahead.close()
    assert len(closed) == 1
    assert closed[0] is not threading.main_thread()
