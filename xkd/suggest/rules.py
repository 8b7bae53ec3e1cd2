"""The rules by which settings suit a dataset, a machine and a time budget; docs/suggest.md explains them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from xkd.config import PretrainConfig
from xkd.config.presets import get_preset
from xkd.data.datasets.training import TrainingClips

CANDIDATES: Mapping[str, float] = {"paper": 50.0, "vit_small": 12.5, "vit_tiny": 3.0, "embedded": 0.0}
"""Presets, largest first, and the hours of training clips from which each is considered."""
SMALLEST = "embedded"
"""The candidate that suits any data and any time."""
FEWEST_STEPS = 4
"""Least steps of an epoch: an incomplete last batch is dropped, here at most a fifth of the clips."""
FEWEST_CLIPS = 2 * FEWEST_STEPS
"""Least training clips: the alignment and the projectors' norms compare the clips of a batch."""
CLIPS_PER_GPU = 32
"""Clips of a batch from which another GPU is used: those of one in the paper."""
REFERENCE_CLIPS = 600
"""A run on fewer clips has more epochs, as many windows as on this number of clips."""
MOST_REPEATS = 4
"""How many times the preset's epochs a run on few clips has at most."""
LEAST_SHARE = 0.25
"""Share of the wanted epochs that the time must suffice for, or a smaller preset is taken."""


@dataclass(frozen=True)
class Material:
    """The clips of a dataset that a run trains on."""

    clips: int
    hours: float
    short_side: int | None
    """Pixels that frames were reduced to; None: they have those of the source."""

    @classmethod
    def of(cls, training: TrainingClips) -> Material:
        """Return the material of a run."""
        seconds = float(training.clips.durations.sum())
        return cls(len(training), seconds / 3600, training.dataset.settings.get("short_side"))


@dataclass(frozen=True)
class Timing:
    """Measured seconds of a setting on a device."""

    part: float
    """Views, forward and backward pass of one part of a step."""
    update: float
    """What follows once a step: clipping, AdamW, centers and teachers."""
    read: float
    """One clip, read by one worker."""

    def computing(self, config: PretrainConfig) -> float:
        """Return the seconds that a process computes in a step."""
        return self.part * config.run.accumulate + self.update

    def reading(self, config: PretrainConfig, processes: int) -> float:
        """Return the seconds that one worker needs for a process's share of a batch."""
        return self.read * config.optim.batch_size / processes

    def step(self, config: PretrainConfig, processes: int) -> float:
        """Return the seconds of a step, in which the workers read the next batch."""
        computing, reading = self.computing(config), self.reading(config, processes)
        return max(computing, reading / config.run.workers) if config.run.workers else computing + reading


def objection(preset: str, material: Material) -> str:
    """Return why the data does not suit a preset; "" if it does."""
    config, least = get_preset(preset), CANDIDATES[preset]
    height, clips = config.video.global_view[1], FEWEST_STEPS * config.optim.batch_size
    if material.hours < least:
        return f"is for {least:g} hours of training clips or more"
    if least and material.clips < clips:
        return f"is for {clips} training clips or more ({FEWEST_STEPS} batches)"
    if least and material.short_side and material.short_side < height:
        return f"sees {height} pixels, but the clips were prepared with short_side={material.short_side}"
    return ""


def fit_batch(config: PretrainConfig, clips: int) -> PretrainConfig:
    """Return the settings with the batch halved until an epoch has `FEWEST_STEPS`."""
    size = config.optim.batch_size
    while size > clips // FEWEST_STEPS:
        size //= 2
    return replace(config, optim=replace(config.optim, batch_size=size))


def fit_processes(config: PretrainConfig, gpus: int) -> int:
    """Return how many GPUs to use: equal shares of the batch, of `CLIPS_PER_GPU` or more."""
    size = config.optim.batch_size
    return max(n for n in range(1, gpus + 1) if n == 1 or (size % n == 0 and size >= n * CLIPS_PER_GPU))


def fit_workers(timing: Timing, config: PretrainConfig, processes: int, cores: int) -> PretrainConfig:
    """Return the settings with as many workers as keep a GPU from waiting, as far as there are cores."""
    needed = math.ceil(timing.reading(config, processes) / timing.computing(config))
    workers = max(1, min(needed, cores // processes - 1))
    return replace(config, run=replace(config.run, workers=workers))


def wanted_epochs(config: PretrainConfig, clips: int) -> int:
    """Return the preset's epochs, or more of them for few clips."""
    return round(config.optim.epochs * min(max(1.0, REFERENCE_CLIPS / clips), MOST_REPEATS))


def possible_epochs(step_seconds: float, steps_per_epoch: int, hours: float) -> int:
    """Return the epochs that a time budget suffices for."""
    return int(hours * 3600 / (step_seconds * steps_per_epoch))


def with_epochs(config: PretrainConfig, epochs: int) -> PretrainConfig:
    """Return the settings with other epochs, and the same share of them as warm-up."""
    warmup = math.ceil(config.optim.warmup_epochs * epochs / config.optim.epochs)
    optim = replace(config.optim, epochs=epochs, warmup_epochs=min(warmup, epochs - 1))
    return replace(config, optim=optim)


def settings(config: PretrainConfig) -> dict[str, Any]:
    """Return the settings that differ from the preset's, as ``--set`` names them."""
    preset = get_preset(config.preset)
    return {
        f"{section}.{name}": getattr(getattr(config, section), name)
        for section, names in (
            ("optim", ("batch_size", "epochs", "warmup_epochs")),
            ("run", ("accumulate", "workers")),
        )
        for name in names
        if getattr(getattr(config, section), name) != getattr(getattr(preset, section), name)
    }
