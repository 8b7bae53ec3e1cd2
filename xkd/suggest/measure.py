"""The time of a training step, measured with the real model on real clips."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import torch

from xkd.config import PretrainConfig
from xkd.data.datasets.training import TrainingClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.reader import collate
from xkd.data.transforms.views import Views
from xkd.launch.distributed import DistributedContext
from xkd.model.xkd import XKD
from xkd.suggest.rules import Timing
from xkd.train.schedules import schedule
from xkd.train.step import Stepper, mask_noise
from xkd.train.watch import StepTimer

_STEPS = 5
_LONG = 20.0
"""Seconds above which a part of a step is measured on two clips: on a CPU, they are proportional to clips."""


def measure(
    config: PretrainConfig, dataset: PreparedDataset, context: DistributedContext, processes: int
) -> Timing:
    """Return the times of a part of a step, as one of `processes` computes it; medians after a first step."""
    part = config.optim.batch_size // (processes * config.run.accumulate)
    few = min(2, part)
    probe = _measure(config, dataset, context, few, 1)
    if probe.part / few * part > _LONG:
        return replace(probe, part=probe.part / few * part)
    return _measure(config, dataset, context, part, _STEPS)


def _measure(
    config: PretrainConfig, dataset: PreparedDataset, context: DistributedContext, clips: int, steps: int
) -> Timing:
    """Return the median times of `steps` steps of one part, after one that is not counted."""
    optim = replace(config.optim, batch_size=clips)
    config = replace(config, optim=optim, run=replace(config.run, accumulate=1))
    training = TrainingClips(dataset, config)
    items, reading = [], []
    for index in range(clips):
        begin = time.perf_counter()
        items.append(training[0, index])
        reading.append(time.perf_counter() - begin)
    batch = collate(items)
    make_views = Views(config, training.specs).to(context.device)
    torch.manual_seed(config.run.seed)
    stepper = Stepper(XKD(config).to(context.device), config, context)
    timer, rows = StepTimer(context.device), []
    for step in range(1 + steps):
        timer.start()
        timer.end_phase()
        parts = zip([make_views(batch)], mask_noise(config, step, context), strict=True)
        stepper.step(parts, schedule(config, step, 100, 10), timer.end_phase)
        rows.append(timer.read(clips))
    rows = rows[1:]
    return Timing(
        part=median(row["seconds_forward"] + row["seconds_backward"] for row in rows),
        update=median(row["seconds_optimizer"] for row in rows),
        read=median(reading),
    )
