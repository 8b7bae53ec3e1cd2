"""Observation of training steps: their time, values that are not finite, and the rows of metrics.jsonl."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from xkd.model.terms import BATCH_ENTROPY, FEATURE_RANK, FEATURE_STD, direction
from xkd.monitor.metrics import PHASES, RANK_PHASES
from xkd.monitor.signals import effective_rank, entropy, information, spread
from xkd.rundir import Row
from xkd.train.step import SMALLEST_SCALE, Stepper

_NEVER = 2**62
"""A step number that no run reaches."""


class StepTimer:
    """Times the phases of steps on the device's own timeline; only `read` synchronizes with the device.

    On a GPU, waiting for data counts only as far as the GPU is idle.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last_read = time.perf_counter()
        self._steps: list[list[Any]] = []
        """Ends of the phases: events on a GPU, else seconds."""

    def start(self) -> None:
        """Begin a step, before its batch is fetched."""
        self._steps.append([])
        self.end_phase()

    def end_phase(self) -> None:
        """End the current one of `PHASES`."""
        if self._device.type == "cuda":
            end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end.record()
        else:
            end = time.perf_counter()
        self._steps[-1].append(end)

    def read(self, clips: int) -> dict[str, float]:
        """Return the timing fields of a row, averaged over the steps of `clips` clips since the last call."""
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self._device)
        count, now = len(self._steps), time.perf_counter()
        seconds, self._last_read = (now - self._last_read) / count, now
        row = {"step_seconds": seconds, "samples_per_second": clips / seconds}
        for name, ends in zip(PHASES, zip(*map(pairwise, self._steps), strict=True), strict=True):
            total = sum(begin.elapsed_time(end) / 1000 if cuda else end - begin for begin, end in ends)
            row[f"seconds_{name}"] = total / count
        self._steps.clear()
        return row

    def skip(self) -> None:
        """Leave out the time since `read`: other work than steps was done."""
        self._last_read = time.perf_counter()


class StepWatch:
    """Watches the steps of a `Stepper`; only `row` and `first_nonfinite` synchronize with the device.

    Args:
        stepper: the source of the steps.
        steps: number of steps of the run.
        steps_per_epoch: steps of one pass over the clips.
        skipped_clips: unreadable clips before the first step, counted on one process.
    """

    def __init__(self, stepper: Stepper, steps: int, steps_per_epoch: int, skipped_clips: int = 0) -> None:
        self.stepper, self.context = stepper, stepper.context
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.timer = StepTimer(self.context.device)
        self._skipped_clips = skipped_clips
        self._terms: dict[str, Tensor] = {}
        self._finite_terms: list[str] = []
        self._first_nonfinite: dict[str, Tensor] = {}

    def observe(self, step: int, terms: dict[str, Tensor], batch: Iterable[Mapping[str, Any]] = ()) -> None:
        """Record a step, counted from 1, with its terms and this process's parts of its batch."""
        self._terms = terms
        self._skipped_clips += sum(int(part["skipped"].sum()) for part in batch)
        # With a gradient scaler gradients may overflow: it skips such a step.
        self._finite_terms = [
            name for name in terms if name != "grad_norm" or not self.stepper.scaler.is_enabled()
        ]
        now = {"values": torch.stack([terms[name] for name in self._finite_terms])}
        now["bad"] = ~now["values"].isfinite().all()
        now["step"] = torch.full_like(now["bad"], step, dtype=torch.int64)
        first = self._first_nonfinite or now
        self._first_nonfinite = {name: torch.where(first["bad"], first[name], now[name]) for name in now}

    def first_nonfinite(self) -> str:
        """Return which terms first were not finite on any process, and at which step; "" if none were."""
        scaler, first = self.stepper.scaler, self._first_nonfinite
        if scaler.is_enabled() and scaler.get_scale() < SMALLEST_SCALE:
            return "gradients overflow in fp16 at any loss scale"
        mine = int(first["step"]) if first["bad"] else _NEVER
        step = -self.context.all_reduce_max(-mine)
        if step == _NEVER:
            return ""
        values = first["values"] if mine == step else torch.zeros_like(first["values"])
        values = self.context.all_reduce_mean(values)
        named = zip(self._finite_terms, values.tolist(), strict=True)
        bad = ", ".join(name for name, value in named if not isfinite(value))
        return f"{bad} not finite at step {step}"

    def row(self, step: int, values: Mapping[str, float], checkpoint_time: float | None = None) -> Row:
        """Return the row of metrics.jsonl of the step observed last, with the schedules' `values` for it.

        `checkpoint_time` is the Unix time of the newest checkpoint.
        """
        tensors = self._terms | self.signals()
        # all_reduce_mean of size times each process's count is the count over all processes.
        skipped = self._skipped_clips * self.context.size
        tensors["skipped_unreadable"] = tensors["loss"].new_tensor(skipped)
        means = self.context.all_reduce_mean(torch.stack(list(tensors.values()))).tolist()
        row: Row = {"step": step, "epoch": step / self.steps_per_epoch, "time": time.time(), **values}
        row |= zip(tensors, means, strict=True)
        row |= self.device_statistics(step)
        row |= information(row)
        row |= self.timer.read(self.stepper.model.config.optim.batch_size)
        row |= self._phases_by_rank(row)
        row["eta_seconds"] = (self.steps - step) * row["step_seconds"]
        return row if checkpoint_time is None else row | {"checkpoint_time": checkpoint_time}

    def _phases_by_rank(self, row: Row) -> dict[str, list[float]]:
        """Return every process's time in `RANK_PHASES`, from the row of this one."""
        names = [f"seconds_{phase}" for phase in RANK_PHASES]
        rows = self.context.all_gather({name: row[name] for name in names})
        return {f"{name}_by_rank": [each[name] for each in rows] for name in names}

    def signals(self) -> dict[str, Tensor]:
        """Return the collapse signals of the last step, the same on every process."""
        signals: dict[str, Tensor] = {}
        for m, outputs in self.stepper.teacher_outputs.items():
            features = torch.cat([output.features for output in outputs])
            distribution = self.stepper.mean([output.mean_distribution for output in outputs])
            signals[BATCH_ENTROPY[direction(m)]] = entropy(distribution)
            signals[FEATURE_STD[m]] = self.context.all_reduce_mean(spread(features))
            signals[FEATURE_RANK[m]] = self.context.all_reduce_mean(effective_rank(features))
        return signals

    def device_statistics(self, step: int) -> dict[str, float]:
        """Return device statistics after this step.

        ``skipped_steps``: those that the gradient scaler left out. In fp16 ``loss_scale``; on a GPU
        ``gpu_memory_bytes``, the maximum allocated so far, and ``gpu_memory_capacity_bytes``.
        """
        state, scaler, device = self.stepper.optimizer.state, self.stepper.scaler, self.context.device
        taken = next(iter(state.values()))["step"] if state else 0
        statistics: dict[str, float] = {"skipped_steps": step - int(taken)}
        if scaler.is_enabled():
            statistics["loss_scale"] = scaler.get_scale()
        if device.type == "cuda":
            statistics["gpu_memory_bytes"] = torch.cuda.max_memory_allocated(device)
            capacity = torch.cuda.get_device_properties(device).total_memory
            statistics["gpu_memory_capacity_bytes"] = capacity
        return statistics
