"""Pretraining: the training loop of section 3, in every process that torchrun starts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xkd.config import PretrainConfig
from xkd.config.overrides import build
from xkd.config.yaml_core import parse_yaml
from xkd.data.datasets.training import TrainingClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views
from xkd.errors import RunInterruptedError
from xkd.launch.distributed import DistributedContext, distributed_context
from xkd.launch.preflight import check_devices, require_gpu
from xkd.launch.termination import run_worker
from xkd.lock import DirectoryLock, locked_directory
from xkd.log import get_logger
from xkd.model.xkd import XKD
from xkd.monitor.collapse import CollapseThresholds
from xkd.monitor.exporter import MetricsExporter
from xkd.monitor.loggers import Loggers, require_loggers
from xkd.monitor.run_monitor import RunMonitor
from xkd.parallel.threads import limit_threads
from xkd.rundir import RunDir, Verdict
from xkd.train.initial import initial_weights
from xkd.train.loop import ResumableLoop
from xkd.train.memory import check_memory, find_machine
from xkd.train.probe import Probe
from xkd.train.publish import mean_outputs, save_encoders, save_snapshot
from xkd.train.run_state import RunState
from xkd.train.schedules import schedule
from xkd.train.step import Stepper, mask_noise, precision, require_compiler
from xkd.train.visualize import save_samples
from xkd.train.watch import StepWatch

_log = get_logger(__name__)

ROLLBACK_LR = 0.5
"""Factor of the learning rate per rollback."""


def pretrain(
    config: PretrainConfig, data: Path, out: Path, preflight: bool = False, extend: bool = False
) -> Verdict:
    """Train XKD on prepared clips, or resume a run that was interrupted.

    Writes the files of `xkd.rundir.RunDir` to `out`. All randomness is drawn from (seed, step) or (seed,
    epoch, clip): batches do not depend on the number of processes, and a resumed run is bit-equal to an
    uninterrupted one (on a GPU up to rounding, because torch sums some gradients there in no fixed order).

    Args:
        preflight: check the devices first.
        extend: continue a run for more epochs, see `xkd.rundir.RunDir.claim`.

    Raises:
        UserError: `out` holds another run or is in use, the data does not fit, the memory is far too
            small, or the disk is full.
        RunInterruptedError: SIGTERM or SIGINT came; the state is saved.
        CollapsedError: the run ended before its last step because of values that are not finite or,
            depending on `run.on_collapse`, of a collapse; no encoders are published.
    """
    run = RunDir(out)
    with distributed_context(config.run.peer_seconds) as context:
        if preflight:
            check_devices(context)
        # Mistakes are reported before anything is written.
        precision(config.run.precision, context.device)
        if config.run.compile:
            require_compiler(context.device)
        context.broadcast_flag(lambda: require_loggers(config.run))
        clips = TrainingClips(PreparedDataset.open(data), config)
        clips.count_steps(context.size)
        if extend or not context.broadcast_flag(lambda: run.ended):
            check_memory(config, context, find_machine(context))
        new = context.broadcast_flag(lambda: not run.ended and run.newest_checkpoint() is None)
        initial = initial_weights(config) if new else {}
        with locked_directory(out, context.broadcast_flag) as lock:
            ended = context.broadcast_flag(lambda: run.claim(config, extend))
            state = RunState(run, clips.dataset, context)
            if ended:  # a log may have been away when it did
                verdict = run.verdict()
                if context.is_main:
                    _log.info(f"pretrain: {out} ended at step {verdict.step}; nothing was trained")
                Loggers(run, state.info, verdict.step, write=context.is_main).end(verdict)
            state.finish_rollback()
            while not ended:
                # Again after a rollback, from the checkpoint before the collapse.
                ended = _train(clips, state, lock, initial)
    return run.outcome()


def _train(clips: TrainingClips, state: RunState, lock: DirectoryLock, initial: dict[str, Tensor]) -> bool:
    """Train until the run ends or is rolled back; return whether it has ended."""
    config, run, context = clips.config, state.dir, state.context
    steps, per_epoch = clips.count_steps(context.size)
    make_views = Views(config, clips.specs).to(context.device)
    thresholds = CollapseThresholds.from_config(config, per_epoch)

    # Build the model and load the newest checkpoint, if there is one.
    torch.manual_seed(config.run.seed)
    model = XKD(config)
    model.load_state_dict(initial, strict=False)
    initial.clear()  # they take as much memory as the model, and a rollback starts from a checkpoint
    stepper = Stepper(model.to(context.device), config, context)
    loop = ResumableLoop("pretrain", stepper, state.checkpoints, steps)

    # Every process judges the run, so that all stop at the same step; the main one writes and serves metrics.
    exporter = _build_exporter(state, clips, steps)
    monitor = RunMonitor(run, thresholds, exporter, loop.first, write=context.is_main)
    verdict = monitor.judge()
    skipped = monitor.skipped_clips if context.is_main else 0
    watch = StepWatch(stepper, steps, per_epoch, skipped)
    state.record_start(loop.first, steps, exporter.address)
    loggers = Loggers(run, state.info, loop.first, write=context.is_main)
    probe = Probe(clips, context, steps, per_epoch)

    # Clips are decoded and windows drawn by `run.workers`, which on the CPU also make the views.
    batches = clips.batches(loop.first, steps, context.rank, context.size, make_views)
    completed = False
    with closing(exporter), loggers, loop, _interruption_reported(loggers, monitor, context):
        for step in loop:
            watch.timer.start()
            batch = list(islice(batches, config.run.accumulate))
            watch.timer.end_phase()

            values = schedule(config, step - 1, steps, per_epoch)
            values["lr"] *= ROLLBACK_LR**state.rollbacks
            parts = zip(map(make_views, batch), mask_noise(config, step - 1, context), strict=True)
            terms = stepper.step(parts, values, watch.timer.end_phase)
            watch.observe(step, terms, batch)

            logging = step % config.run.log_every == 0 or step in (1, steps) or probe.due(step)
            saving = loop.save_due(step)
            if context.is_main and (logging or saving):
                lock.check()
            if logging:
                row = watch.row(step, values, state.checkpoints.newest_time())
                row |= probe.measure(step, stepper.model, values)
                watch.timer.skip()
                verdict = monitor.log(row)
                loggers.notify()
                loop.note(f"loss {row['loss']:.3f}")
            # A state that is not finite is never saved: the newest checkpoint can always be resumed.
            if (logging or saving) and (reason := watch.first_nonfinite()):
                kept = run.newest_checkpoint() or "no checkpoint"
                verdict = Verdict("non_finite", f"{reason}; the last good state is {kept}", step)
                break
            if logging and verdict.failed and config.run.on_collapse != "alert":
                break
            save_snapshot(stepper.model, clips, state, step, per_epoch, verdict)
            if saving:
                state.record_time()
                loop.save(step)
        else:
            completed = True

        # Before anything is published: a run that is resumed after its last step may be rolled back too.
        if verdict.failed and (kept_step := _roll_back(state, monitor, verdict)):
            loggers.roll_back()  # may take seconds, in which signals still count
            loop.stop_if_signaled(kept_step)
            return False
        if completed and context.is_main:
            state.checkpoints.save(steps, stepper)
            save_encoders(stepper.model, run, mean_outputs(stepper.model, clips))
            save_samples(stepper.model, clips.dataset, run.samples_file)
        state.record_end(verdict)
        loggers.end(verdict)
        monitor.await_final_scrape(verdict)
    context.barrier()
    return True


@contextmanager
def _interruption_reported(
    loggers: Loggers, monitor: RunMonitor, context: DistributedContext
) -> Iterator[None]:
    """Report to the logs and to Prometheus that a signal ended the run, and end all processes together."""
    try:
        yield
    except RunInterruptedError:
        loggers.interrupt()
        monitor.await_scrape_of_interruption()
        context.barrier()  # when one process exits, torchrun kills the others
        raise


def _build_exporter(state: RunState, clips: TrainingClips, steps: int) -> MetricsExporter:
    """Return the exporter, with the values that do not change during the run; the main process serves it."""
    config = clips.config.run
    constants = {
        "steps": steps,
        "log_every": config.log_every,
        "rollbacks": state.rollbacks,
        "skipped_unprepared": clips.dataset.skipped,
        "skipped_without_modality": clips.without_modality,
        "skipped_too_short": clips.too_short,
    }
    exporter = MetricsExporter(state.dir.name, state.info, constants)
    if state.context.is_main and config.metrics_port is not None:
        exporter.serve(config.metrics_host, config.metrics_port)
    return exporter


def _roll_back(state: RunState, monitor: RunMonitor, verdict: Verdict) -> int:
    """Return to the newest checkpoint before a collapse and return its step; 0 if none is left or allowed."""
    step = 0
    if state.context.is_main and state.rollbacks < state.max_rollbacks:
        # Only finite states are saved, so the newest checkpoint is good if that is the only problem.
        last_good = verdict.step if verdict.verdict == "non_finite" else monitor.find_onset()
        step = state.checkpoints.newest_until(last_good)
    step = state.context.all_reduce_max(step)
    if not step:
        return 0
    state.record_rollback(verdict, step)
    state.finish_rollback()
    if state.context.is_main:
        _log.info(
            f"{verdict.verdict}: {verdict.reason}; rolled back to step {step} with the learning rate "
            f"times {ROLLBACK_LR**state.rollbacks:g} (rollback {state.rollbacks} of {state.max_rollbacks})"
        )
    return step


def main() -> dict[str, Any]:
    """Run one training process, started by torchrun: ``--settings TEXT --data DIR --out RUN [--extend]``.

    A job on a cluster adds ``--preflight cuda``, or ``cpu`` if its pods request no GPU.

    The settings are YAML (or JSON), no file, because hosts need share none with the launcher.
    """
    parser = argparse.ArgumentParser(prog="python -m xkd.train.pretrain", description=main.__doc__)
    for name in ("settings", "data", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--preflight", choices=("cpu", "cuda"))
    parser.add_argument("--extend", action="store_true")
    values = parser.parse_args()
    config = build(PretrainConfig, parse_yaml(values.settings), "--settings")
    limit_threads()
    if values.preflight == "cuda":
        require_gpu()
    verdict = pretrain(config, Path(values.data), Path(values.out), bool(values.preflight), values.extend)
    return {"verdict": verdict.to_dict()}


if __name__ == "__main__":
    run_worker(main)
