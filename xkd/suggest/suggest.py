"""Suggest the settings of a pretraining run for a dataset, this machine and a time budget."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from xkd.config import PretrainConfig
from xkd.config.presets import get_preset
from xkd.data.datasets.training import TrainingClips, steps_per_epoch
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.launch.distributed import DistributedContext, distributed_context
from xkd.log import get_logger
from xkd.parallel.limits import cores
from xkd.suggest import rules
from xkd.suggest.measure import measure
from xkd.suggest.rules import Material, Timing
from xkd.train.memory import LAUNCH_BYTES, Machine, count_parameters, find_machine, gigabytes, in_more_parts
from xkd.train.step import precision

_log = get_logger(__name__)


@dataclass(frozen=True)
class Suggestion:
    """Settings of a run, what they were chosen from, and why."""

    config: PretrainConfig
    material: Material
    machine: Machine
    timing: Timing
    wanted: int
    """Epochs without a limit of the time."""
    rejected: Mapping[str, str]
    """Why each larger preset was not taken."""

    @property
    def steps(self) -> int:
        """Number of steps of an epoch."""
        return steps_per_epoch(self.material.clips, self.config.optim.batch_size)

    @property
    def step_seconds(self) -> float:
        """Expected time of a step."""
        return self.timing.step(self.config, self.machine.processes)

    @property
    def hours(self) -> float:
        """Expected time of the run."""
        return self.config.optim.epochs * self.steps * self.step_seconds / 3600

    def command(self, data: Path) -> str:
        """Return the command line of the run."""
        words = ["xkd", "pretrain", "--preset", self.config.preset, "--data", str(data)]
        words += ["--out", f"runs/{data.resolve().name}"]
        for name, value in rules.settings(self.config).items():
            words += ["--set", f"{name}={value}"]
        if self.machine.processes > 1:
            words += ["--processes", str(self.machine.processes)]
        return shlex.join(words)

    def lines(self) -> Iterator[str]:
        """Yield the facts and reasons, aligned."""
        optim, run, machine = self.config.optim, self.config.run, self.machine
        trained, _ = count_parameters(self.config)
        frames = "x".join(map(str, self.config.video.global_view[1:]))
        parts = f" in {run.accumulate} parts" if run.accumulate > 1 else ""
        left = self.material.clips - self.steps * optim.batch_size
        leaves = f", which leave out {left} clip{'s' * (left > 1)}, others each time" if left else ""
        all_hours = self.hours * self.wanted / optim.epochs
        fewer = f"; {self.wanted} would take {_duration(all_hours)}" if optim.epochs < self.wanted else ""
        facts = {
            "data": f"{self.material.clips} training clips, {_duration(self.material.hours)}",
            "device": _device(machine, precision(run.precision, machine.device)),
            "preset": f"{self.config.preset}, {trained / 1e6:.1f} M trained parameters, frames of {frames}",
            "batch": f"{optim.batch_size} clips{parts}; {self.steps} steps an epoch{leaves}",
            "epochs": f"{optim.epochs}, {optim.warmup_epochs} of them warm-up{fewer}",
            "time": f"about {_duration(self.hours)}, {_time(self.step_seconds)} a step and "
            f"{_time(self.timing.read)} to read a clip (run.workers={run.workers}), as measured now",
            "memory": f"about {gigabytes(machine.need(self.config))} of {gigabytes(machine.available)} free",
        }
        yield from (f"{name:8}{fact}" for name, fact in facts.items())
        yield from (f"{'':8}not {preset}: it {reason}" for preset, reason in self.rejected.items())


def suggest(data: Path, hours: float) -> Suggestion:
    """Return the largest candidate that suits the data, the memory and the time.

    Args:
        data: a prepared dataset.
        hours: that the run may take.

    Raises:
        UserError: the data is not prepared, has too few clips of both modalities, or no candidate fits the
            memory.
    """
    if not 0 < hours < math.inf:
        raise UserError(f"--hours must be more than 0, not {hours:g}")
    # All candidates train on the same clips.
    dataset = PreparedDataset.open(data)
    material = Material.of(TrainingClips(dataset, get_preset(rules.SMALLEST)))
    if material.clips < rules.FEWEST_CLIPS:
        raise UserError(
            f"{data} has {material.clips} training clips with video and audio, but pretraining needs "
            f"{rules.FEWEST_CLIPS} or more; prepare more clips"
        )
    with distributed_context() as context:
        machine = find_machine(context)
        if context.device.type == "cpu":
            machine = replace(machine, available=max(0, machine.available - LAUNCH_BYTES))
        return choose(dataset, material, machine, context, hours)


def choose(
    dataset: PreparedDataset, material: Material, machine: Machine, context: DistributedContext, hours: float
) -> Suggestion:
    """Return the largest candidate that fits `machine`, measured on this process's device.

    Raises:
        UserError: none fits its memory.
    """
    on_gpu = context.device.type == "cuda"
    rejected: dict[str, str] = {}
    for preset in rules.CANDIDATES:
        if reason := rules.objection(preset, material):
            rejected[preset] = reason
            continue
        config = rules.fit_batch(get_preset(preset), material.clips)
        if on_gpu:
            machine = replace(machine, processes=rules.fit_processes(config, torch.cuda.device_count()))
        else:
            # Reading takes far less time than training, which has a thread for each of the other cores.
            config = replace(config, run=replace(config.run, workers=min(1, cores() - 1)))
            if "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(max(1, cores() - config.run.workers))
        config = next(filter(machine.fits, in_more_parts(config, machine.processes)), config)
        if not machine.fits(config):
            *_, smallest = in_more_parts(config, machine.processes)
            rejected[preset] = f"needs {gigabytes(machine.need(smallest))} of memory, even clip by clip"
            continue
        _log.info(f"suggest: measuring steps of preset {preset}")
        timing = measure(config, dataset, context, machine.processes)
        if on_gpu:
            config = rules.fit_workers(timing, config, machine.processes, cores())
        per_epoch = steps_per_epoch(material.clips, config.optim.batch_size)
        step = timing.step(config, machine.processes)
        wanted = rules.wanted_epochs(config, material.clips)
        possible = rules.possible_epochs(step, per_epoch, hours)
        if possible < rules.LEAST_SHARE * wanted and preset != rules.SMALLEST:
            needed = wanted * per_epoch * step / 3600
            rejected[preset] = f"would take {_duration(needed)} for {wanted} epochs (--hours {hours:g})"
            continue
        config = rules.with_epochs(config, max(1, min(wanted, possible)))
        return Suggestion(config, material, machine, timing, wanted, rejected)
    raise UserError(
        f"{gigabytes(machine.available)} of memory are free for training, but the smallest preset, "
        f"{rules.SMALLEST}, {rejected[rules.SMALLEST]}"
    )


def _device(machine: Machine, dtype: torch.dtype) -> str:
    if machine.device.type == "cuda":
        name = f"{machine.processes} x {torch.cuda.get_device_name(machine.device)}"
    else:
        name = f"CPU, {cores()} core{'s' * (cores() > 1)}"
    return f"{name}, {dtype}".replace("torch.", "")


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _time(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{1000 * seconds:,.0f} ms"
