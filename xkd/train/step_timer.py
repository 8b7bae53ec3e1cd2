"""Time spent in each phase of a step."""

from __future__ import annotations

import time
from itertools import pairwise

import torch

from xkd.monitor.metrics import PHASES


class StepTimer:
    """Times the phases of steps on the device's own timeline; only `read` synchronizes with the device.

    On a GPU, waiting for data counts only as far as the GPU is idle.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last_read = time.perf_counter()
        self._steps: list[list[float | torch.cuda.Event]] = []

    def start(self) -> None:
        """Begin a step, before its batch is fetched."""
        self._steps.append([])
        self.end_phase()

    def end_phase(self) -> None:
        """End the current one of `PHASES`."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()  # type: ignore[no-untyped-call]
            self._steps[-1].append(event)
        else:
            self._steps[-1].append(time.perf_counter())

    def read(self, clips: int) -> dict[str, float]:
        """Return the timing fields of a row of metrics.jsonl, averaged over the steps since the last call.

        Args:
            clips: number of clips of a step, over all processes.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        count, now = len(self._steps), time.perf_counter()
        seconds, self._last_read = (now - self._last_read) / count, now
        phases = zip(*([_seconds(*pair) for pair in pairwise(ends)] for ends in self._steps), strict=True)
        row = {f"seconds_{name}": sum(phase) / count for name, phase in zip(PHASES, phases, strict=True)}
        self._steps.clear()
        return row | {"step_seconds": seconds, "samples_per_second": clips / seconds}


def _seconds(begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(begin, torch.cuda.Event):
        return float(begin.elapsed_time(end)) / 1000  # type: ignore[no-untyped-call]
    assert not isinstance(end, torch.cuda.Event)
    return end - begin
