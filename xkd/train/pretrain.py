"""Pretraining: the loop of section 3, on every process that torchrun starts."""

from __future__ import annotations

import argparse
import math
import time
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from xkd.config import MODALITIES, Modality, PretrainConfig, load_config
from xkd.data.clips import TrainingClips, steps_per_epoch, training_batches
from xkd.data.views import Views
from xkd.method.model import build_model
from xkd.method.schedule import cosine, learning_rate, temperature
from xkd.progress import progress
from xkd.train.agent import worker
from xkd.train.checkpoint import Checkpoints, save_encoders
from xkd.train.distributed import World, join_world
from xkd.train.pictures import save_pictures
from xkd.train.run import Run
from xkd.train.step import Stepper, precision
from xkd.train.stop import StoppedError, StopSignal
from xkd.watch.collapse import Verdict, judge
from xkd.watch.telemetry import Telemetry


def pretrain(config: PretrainConfig, data: Path, out: Path) -> Verdict:
    """Train XKD on prepared clips, or go on where an earlier process of the same run stopped.

    Writes to `out`: config.yaml, run.json, metrics.jsonl, checkpoints/, and at the end encoders/,
    reconstruction.pt and verdict.json. All randomness is drawn from (seed, step) or from (seed, epoch,
    clip), so the batches do not depend on the number of processes, and a resumed run continues bit-equal. (On
    a GPU but for rounding, because torch sums some gradients there in no fixed order.)

    Raises:
        UserError: `out` holds another run, the data does not fit, or the disk is full.
        StoppedError: SIGTERM or SIGINT came; the state is saved.
    """
    with join_world() as world:
        return _train(config, data, out, world)


def _train(config: PretrainConfig, data: Path, out: Path, world: World) -> Verdict:
    clips = TrainingClips(data, config)
    optim = config.optim
    # Mistakes first: what cannot be trained must not claim the directory.
    per_epoch = steps_per_epoch(len(clips), optim.batch_size, world.size, config.run.accumulate)
    precision(config.run.precision, world.device)
    run = Run(out, config, clips.manifest, world)
    if run.finished:
        return run.verdict()
    steps = optim.epochs * per_epoch

    torch.manual_seed(config.run.seed)
    stepper = Stepper(build_model(config).to(world.device), config, world)
    checkpoints = Checkpoints(out / "checkpoints", config.run.keep_checkpoints)
    done = first = checkpoints.resume(stepper)
    telemetry = Telemetry(out, config.run.metrics_port if world.main else None, first, write=world.main)
    run.started(first, steps, telemetry.address)

    make_views = Views(config).to(world.device)
    batches = training_batches(clips, config, first, steps, world.rank, world.size)
    with progress("pretrain", steps, done=first, show=world.main) as bar, StopSignal() as signal:
        clock, skipped, trouble = Clock(), 0, ""
        for done in range(first + 1, steps + 1):
            parts = list(islice(batches, config.run.accumulate))
            clock.got_data()
            now = schedule(config, done - 1, steps, per_epoch)
            noise = mask_noise(config, done - 1, world)
            terms = stepper.step(done, zip(map(make_views, parts), noise, strict=True), now)
            skipped += sum(int(part["skipped"].sum()) for part in parts)
            stopping = bool(world.highest(signal.received))
            logging = done % config.run.log_every == 0 or done in (1, steps)
            saving = done % config.run.checkpoint_every == 0 or stopping
            if logging:
                row = {"step": done, "epoch": done / per_epoch, "time": time.time(), **now}
                row |= _measured(terms, skipped, world) | {"skipped_steps": stepper.skipped(done)}
                telemetry.log(row | clock.step(optim.batch_size))
                bar.note(f"loss {row['loss']:.3f}")
            if (logging or saving) and (trouble := stepper.trouble()):
                break
            if saving and world.main:
                checkpoints.save(done, stepper)
            if stopping:
                world.barrier()  # a process that left would have the others ended in the middle of saving
                raise StoppedError(
                    f"asked to stop; step {done} of {steps} is saved, and the same command goes on"
                )
            bar.advance()
            clock.start()

    if trouble:
        kept = checkpoints.newest() or "no checkpoint"
        verdict = Verdict("non_finite", f"{trouble}; the last good state is {kept}", done)
    else:
        verdict = judge(telemetry.rows, config.projector.out_dim if config.loss.distill else None)
    if world.main:
        if not trouble:
            checkpoints.save(done, stepper)
            save_encoders(stepper.model, out)
            save_pictures(stepper.model, data, out / "reconstruction.pt")
        run.finish(verdict)
    world.barrier()
    return run.verdict()


class Clock:
    """The seconds of a step, and how many of them were spent waiting for data."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A step begins by asking for its batch."""
        self._start = self._data = time.perf_counter()

    def got_data(self) -> None:
        """The batch is here."""
        self._data = time.perf_counter()

    def step(self, clips: int) -> dict[str, float]:
        """The step's fields of a metrics row."""
        seconds = time.perf_counter() - self._start
        return {
            "step_seconds": seconds,
            "samples_per_second": clips / seconds,
            "data_wait_ratio": (self._data - self._start) / seconds,
        }


def schedule(config: PretrainConfig, step: int, steps: int, per_epoch: int) -> dict[str, float]:
    """What the schedules say for a step, 0 ... steps-1 (Table S4; temperatures: section B.1)."""
    optim = config.optim
    warmup = optim.warmup_epochs * per_epoch
    temperatures = {}
    for m in MODALITIES:
        start, end = config.modality(m).teacher_temperature_start, config.modality(m).teacher_temperature
        rise = per_epoch, optim.temperature_epochs, end if start is None else start, end
        temperatures[f"teacher_temperature_{m}"] = temperature(step, *rise, optim.temperature_schedule)
    return temperatures | {
        "lr": learning_rate(step, steps=steps, warmup=warmup, base=optim.lr, final=optim.lr_final),
        "weight_decay": optim.weight_decay,
        "momentum": cosine(step, steps, optim.ema_base, optim.ema_final),
    }


def mask_noise(config: PretrainConfig, step: int, world: World) -> list[dict[Modality, Tensor]]:
    """The noise that chooses the hidden tokens: this process's parts of the step's global batch."""
    generator = torch.Generator().manual_seed(config.run.seed * 2**32 + step)
    batch, parts = config.optim.batch_size, config.run.accumulate
    tokens = {m: math.prod(config.modality(m).grid) for m in config.modalities}
    noise = {
        m: torch.rand(batch, count, generator=generator).chunk(world.size * parts)
        for m, count in tokens.items()
    }
    mine = range(world.rank * parts, (world.rank + 1) * parts)
    return [{m: noise[m][part].to(world.device) for m in noise} for part in mine]


def _measured(terms: dict[str, Tensor], skipped: int, world: World) -> dict[str, float]:
    """The step's numbers, averaged over processes; the one place that waits for the device."""
    # The mean over processes of size times each one's count is the count of them all.
    terms = terms | {"skipped_clips": terms["loss"].new_tensor(skipped * world.size)}
    values = world.mean(torch.stack(list(terms.values())))
    return dict(zip(terms, values.tolist(), strict=True))


def main() -> None:
    """The process that torchrun starts: ``--config FILE --data DIR --out RUN``."""
    parser = argparse.ArgumentParser(prog="python -m xkd.train.pretrain", description=main.__doc__)
    for name in ("config", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    pretrain(load_config(given.config), given.data, given.out)


if __name__ == "__main__":
    worker(main)
