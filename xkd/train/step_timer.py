"""Where the time of a step goes."""

from __future__ import annotations

import time
from itertools import pairwise

import torch

from xkd.monitor.metrics import PHASES


class Clock:
    """Times the parts of steps on the device's own time line, so that nothing waits for it until `read`.

    On a GPU a wait for data is counted only as far as the GPU is idle for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._read = time.perf_counter()
        self._steps: list[list[float | torch.cuda.Event]] = []

    def start(self) -> None:
        """A step begins by asking for its batch."""
        self._steps.append([])
        self.mark()

    def mark(self) -> None:
        """The next of `PHASES` is over."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()  # type: ignore[no-untyped-call]
            self._steps[-1].append(event)
        else:
            self._steps[-1].append(time.perf_counter())

    def read(self, clips: int) -> dict[str, float]:
        """The fields of a metrics row: means over the steps since the last reading. Waits for the device.

        Args:
            clips: of a step, on all processes.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        count, now = len(self._steps), time.perf_counter()
        seconds, self._read = (now - self._read) / count, now
        parts = zip(*([_seconds(*pair) for pair in pairwise(marks)] for marks in self._steps), strict=True)
        row = {f"seconds_{name}": sum(part) / count for name, part in zip(PHASES, parts, strict=True)}
        self._steps.clear()
        return row | {"step_seconds": seconds, "samples_per_second": clips / seconds}


def _seconds(begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(begin, torch.cuda.Event):
        return float(begin.elapsed_time(end)) / 1000  # type: ignore[no-untyped-call]
    assert not isinstance(end, torch.cuda.Event)
    return end - begin
