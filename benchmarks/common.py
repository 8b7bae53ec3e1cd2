"""What the benchmarks share: the command line, timing, and random inputs of a step."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from xkd.config import Modality, PretrainConfig
from xkd.launch.distributed import DistributedContext
from xkd.model.vit import CHANNELS
from xkd.train.step import Part, mask_noise

SUSTAINED_SECONDS = 1.0
"""Duration of a sustained measurement, long enough to include the pauses that also slow a step down."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the module's docstring."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def preset_parser(
    description: str | None, *, preset: str, batch: int, repeats: int
) -> argparse.ArgumentParser:
    """Return a parser with the options of a measurement on a preset, and their defaults."""
    result = parser(description)
    result.add_argument("--preset", default=preset)
    result.add_argument("--batch", type=int, default=batch)
    result.add_argument("--repeats", type=int, default=repeats)
    return result


class Timer:
    """Measures seconds on one device, by default on the clock on the wall."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self._clock = device, clock

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the time of one call, including the device's work."""
        self._synchronize()
        begin = self._clock()
        work()
        self._synchronize()
        return self._clock() - begin

    def median(self, work: Callable[[], object], repeats: int) -> float:
        """Return the median of several calls after a warm-up call."""
        work()
        return median(self.seconds(work) for _ in range(repeats))

    def sustained(self, work: Callable[[], object]) -> float:
        """Return the mean of as many calls as fill `SUSTAINED_SECONDS`, after a warm-up call."""
        work()
        calls = max(1, round(SUSTAINED_SECONDS / self.seconds(work)))
        return self.seconds(lambda: [work() for _ in range(calls)]) / calls

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def random_part(config: PretrainConfig, context: DistributedContext) -> Part:
    """Return views of noise for one forward pass, and the masking noise of step 0."""
    batch = config.optim.batch_size
    views: dict[Modality, list[torch.Tensor]] = {}
    for m in config.modalities:
        c = config.modality(m)
        sizes = [c.global_view, *[c.local_view] * c.local_views]
        views[m] = [torch.randn(batch, CHANNELS[m], *size, device=context.device) for size in sizes]
    return views, mask_noise(config, 0, context)[0]
