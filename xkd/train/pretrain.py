"""Pretraining: the loop of section 3, on every process that torchrun starts."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xkd.config import MODALITIES, Modality, PretrainConfig, RunConfig, load_config
from xkd.config.overrides import build
from xkd.data.datasets.training import TrainingClips, steps_per_epoch, training_batches
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.launch.distributed import DistributedContext, distributed_context
from xkd.launch.worker import run_worker
from xkd.model.xkd import build_model
from xkd.monitor.collapse import WINDOW, CollapseThresholds
from xkd.monitor.exporter import MetricsExporter
from xkd.monitor.run_monitor import RunMonitor
from xkd.monitor.signals import information
from xkd.rundir import RunDir, Verdict
from xkd.train.checkpoint import Checkpoints, save_encoders
from xkd.train.loop import ResumableLoop
from xkd.train.run_state import Run
from xkd.train.schedules import cosine, learning_rate, temperature
from xkd.train.step import Stepper, precision
from xkd.train.step_timer import Clock
from xkd.train.visualize import save_pictures

ROLLBACK_LR = 0.5
"""What each rollback multiplies the learning rate with."""


def pretrain(config: PretrainConfig, data: Path, out: Path) -> Verdict:
    """Train XKD on prepared clips, or go on where an earlier process of the same run stopped.

    Writes to `out`: config.yaml, run.json, metrics.jsonl, checkpoints/, and at the end encoders/,
    reconstruction.pt and verdict.json. All randomness is drawn from (seed, step) or from (seed, epoch,
    clip), so the batches do not depend on the number of processes, and a resumed run continues bit-equal. (On
    a GPU but for rounding, because torch sums some gradients there in no fixed order.)

    Raises:
        UserError: `out` holds another run, the data does not fit, or the disk is full.
        RunInterruptedError: SIGTERM or SIGINT came; the state is saved.
        CollapsedError: the run ended before its last step, for numbers that are not finite or, where
            `run.on_collapse` says so, for a collapse; verdict.json says why, and no encoders are published.
    """
    with distributed_context(config.run.peer_seconds) as context:
        dataset = PreparedDataset.open(data)
        while True:
            try:
                return _train(config, dataset, out, context)
            except _RolledBackError as error:
                if context.is_main:
                    print(f"xkd: {error}", file=sys.stderr, flush=True)


def _train(
    config: PretrainConfig, dataset: PreparedDataset, out: Path, context: DistributedContext
) -> Verdict:
    clips = TrainingClips(dataset, config)
    optim = config.optim
    # Mistakes first: what cannot be trained must not claim the directory.
    per_epoch = steps_per_epoch(len(clips), optim.batch_size, context.size, config.run.accumulate)
    precision(config.run.precision, context.device)
    _check_reach(config.run)
    run = Run(out, config, dataset, context)
    if run.finished:
        return RunDir(out).outcome()
    steps = optim.epochs * per_epoch

    torch.manual_seed(config.run.seed)
    stepper = Stepper(build_model(config).to(context.device), config, context)
    checkpoints = Checkpoints(out / "checkpoints", config.run.keep_checkpoints)
    loop = ResumableLoop("pretrain", stepper, checkpoints, steps, config.run.checkpoint_every)
    done = first = loop.first
    monitor = _run_monitor(run, clips, CollapseThresholds.from_config(config, per_epoch), first, steps)
    skipped = monitor.skipped_clips if context.is_main else 0  # of all processes so far
    run.started(first, steps, monitor.exporter.address)

    make_views = Views(config).to(context.device)
    batches = training_batches(clips, config, first, steps, context.rank, context.size)
    verdict, clock = monitor.judge(), Clock(context.device)
    with closing(monitor.exporter), loop:
        for done in loop:
            clock.start()
            parts = list(islice(batches, config.run.accumulate))
            clock.mark()
            now = schedule(config, done - 1, steps, per_epoch)
            now["lr"] *= ROLLBACK_LR**run.rollbacks
            noise = mask_noise(config, done - 1, context)
            terms = stepper.step(done, zip(map(make_views, parts), noise, strict=True), now, clock.mark)
            skipped += sum(int(part["skipped"].sum()) for part in parts)
            logging, saving = done % config.run.log_every == 0 or done in (1, steps), loop.save_due(done)
            if logging:
                row = {"step": done, "epoch": done / per_epoch, "time": time.time(), **now}
                row |= _measured(terms | stepper.signals(), skipped, context) | stepper.facts(done)
                row |= information(row) | clock.read(optim.batch_size)
                row |= {"eta_seconds": (steps - done) * row["step_seconds"], **checkpoints.facts()}
                verdict = monitor.log(row)
                loop.note(f"loss {row['loss']:.3f}")
            if (logging or saving) and (trouble := stepper.trouble()):
                kept = checkpoints.newest() or "no checkpoint"
                verdict = Verdict("non_finite", f"{trouble}; the last good state is {kept}", done)
                break
            if logging and not verdict.healthy and config.run.on_collapse != "alert":
                break
            if saving:
                run.paused()
                loop.save(done)
        else:
            _publish(stepper, checkpoints, done, dataset, out)
        if not verdict.healthy and config.run.on_collapse == "rollback":
            _roll_back(run, checkpoints, monitor, verdict)
        if context.is_main:
            run.finish(verdict)
            monitor.await_final_scrape(verdict)
    context.barrier()
    return RunDir(out).outcome()


def _check_reach(run: RunConfig) -> None:
    """Are checkpoints kept for as long as a verdict looks back?

    Raises:
        UserError: they are not, so that no rollback would find one.
    """
    kept, window = (run.keep_checkpoints - 1) * run.checkpoint_every, (WINDOW - 1) * run.log_every
    if run.on_collapse == "rollback" and kept < window:
        raise UserError(
            f"run.on_collapse rollback: a verdict rests on {window} steps, and the oldest of "
            f"run.keep_checkpoints={run.keep_checkpoints} is sometimes but {kept} steps old; keep more"
        )


def _run_monitor(
    run: Run, clips: TrainingClips, thresholds: CollapseThresholds, first: int, steps: int
) -> RunMonitor:
    """Return the monitor of the run; every process has one, the main one writes and serves."""
    constants = {
        "steps": steps,
        "log_every": clips.config.run.log_every,
        "rollbacks": run.rollbacks,
        "skipped_unprepared": clips.dataset.skipped,
        "skipped_without_modality": clips.without_modality,
        "skipped_too_short": clips.too_short,
    }
    main, settings = run.context.is_main, clips.config.run
    exporter = MetricsExporter(RunDir(run.out).name, run.facts, constants)
    if main and settings.metrics_port is not None:
        exporter.serve(settings.metrics_host, settings.metrics_port)
    return RunMonitor(RunDir(run.out), thresholds, exporter, first, write=main)


def _publish(
    stepper: Stepper, checkpoints: Checkpoints, done: int, dataset: PreparedDataset, out: Path
) -> None:
    """Leave what the next verbs need, from the main process."""
    if stepper.context.is_main:
        checkpoints.save(done, stepper)
        save_encoders(stepper.model, out)
        save_pictures(stepper.model, dataset, out / "reconstruction.pt")


class _RolledBackError(Exception):
    """The run stands at an earlier checkpoint now, and goes on from there."""


def _roll_back(run: Run, checkpoints: Checkpoints, monitor: RunMonitor, verdict: Verdict) -> None:
    """Go back to the newest checkpoint from before a collapse; only finite states are ever saved.

    Raises:
        _RolledBackError: the run stands there now. Otherwise there is no such checkpoint, or the run went
            back as often as it may.
    """
    back = 0
    if run.context.is_main and run.rollbacks < run.config.run.max_rollbacks:
        saved_is_good = verdict.verdict == "non_finite"
        back = checkpoints.drop_after(verdict.step if saved_is_good else monitor.find_onset())
    back = run.context.all_reduce_max(back)
    if back:
        run.rolled_back(verdict, back)
        raise _RolledBackError(
            f"{verdict.verdict}: {verdict.reason}; back to step {back} with the learning rate times "
            f"{ROLLBACK_LR**run.rollbacks:g} (rollback {run.rollbacks} of {run.config.run.max_rollbacks})"
        )


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


def mask_noise(
    config: PretrainConfig, step: int, context: DistributedContext
) -> list[dict[Modality, Tensor]]:
    """The noise that chooses the hidden tokens: this process's parts of the step's global batch."""
    generator = torch.Generator().manual_seed(config.run.seed * 2**32 + step)
    batch, parts = config.optim.batch_size, config.run.accumulate
    tokens = {m: math.prod(config.modality(m).grid) for m in config.modalities}
    noise = {
        m: torch.rand(batch, count, generator=generator).chunk(context.size * parts)
        for m, count in tokens.items()
    }
    mine = range(context.rank * parts, (context.rank + 1) * parts)
    return [{m: noise[m][part].to(context.device) for m in noise} for part in mine]


def _measured(terms: dict[str, Tensor], skipped: int, context: DistributedContext) -> dict[str, float]:
    """The step's numbers, averaged over processes; the one place that waits for the device."""
    # The mean over processes of size times each one's count is the count of them all.
    terms = terms | {"skipped_unreadable": terms["loss"].new_tensor(skipped * context.size)}
    values = context.all_reduce_mean(torch.stack(list(terms.values())))
    return dict(zip(terms, values.tolist(), strict=True))


def main() -> dict[str, Any]:
    """The process that torchrun starts: ``--config FILE --data DIR --out RUN``.

    Instead of the file, ``--settings`` gives what is in it: hosts need share no file with the launcher.
    """
    parser = argparse.ArgumentParser(prog="python -m xkd.train.pretrain", description=main.__doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--config", type=Path, help="the resolved configuration, YAML")
    given.add_argument("--settings", help="the resolved configuration as JSON")
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    values = parser.parse_args()
    if values.config:
        config = load_config(values.config)
    else:
        config = build(PretrainConfig, json.loads(values.settings), "--settings")
    return {"verdict": pretrain(config, values.data, values.out).to_dict()}


if __name__ == "__main__":
    run_worker(main)
