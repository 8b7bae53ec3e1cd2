"""Pretraining: the loop of section 3, on every process that torchrun starts."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xkd.config import MODALITIES, Modality, PretrainConfig, load_config
from xkd.data.clips import TrainingClips, steps_per_epoch, training_batches
from xkd.data.views import Views
from xkd.method.model import XKD
from xkd.method.schedule import cosine, learning_rate
from xkd.progress import progress
from xkd.train.agent import worker
from xkd.train.checkpoint import Checkpoints, save_encoders
from xkd.train.distributed import World, join_world
from xkd.train.optimizer import build_optimizer, clip_gradients
from xkd.train.pictures import save_pictures
from xkd.train.run import Run
from xkd.watch.collapse import Verdict, judge
from xkd.watch.telemetry import Telemetry


def pretrain(config: PretrainConfig, data: Path, out: Path) -> Verdict:
    """Train XKD on prepared clips, or go on where an earlier process of the same run stopped.

    Writes to `out`: config.yaml, run.json, metrics.jsonl, checkpoints/, and at the end encoders/,
    reconstruction.pt and verdict.json. All randomness is drawn from (seed, step) or from (seed, epoch,
    clip), so a resumed run continues bit-equal and the batches do not depend on the number of processes.

    Raises:
        UserError: `out` holds another run, the data does not fit, or the disk is full.
    """
    with join_world() as world:
        return _train(config, data, out, world)


def _train(config: PretrainConfig, data: Path, out: Path, world: World) -> Verdict:
    clips = TrainingClips(data, config)
    per_epoch = steps_per_epoch(len(clips), config.optim.batch_size, world.size)
    run = Run(out, config, clips.manifest, world)
    if run.finished:
        return run.verdict()
    steps = config.optim.epochs * per_epoch

    torch.manual_seed(config.run.seed)
    model = XKD(config).to(world.device)
    optimizer = build_optimizer(model, config.optim)
    checkpoints = Checkpoints(out / "checkpoints", config.run.keep_checkpoints)
    done = first = _resume(checkpoints, model, optimizer, world)
    telemetry = Telemetry(out, config.run.metrics_port if world.main else None, first, write=world.main)
    run.started(first, steps, telemetry.address)

    objective = DistributedDataParallel(model, broadcast_buffers=False) if world.size > 1 else model
    make_views = Views(config).to(world.device)
    batches = training_batches(clips, config, first, steps, world.rank, world.size)
    with progress("pretrain", steps, done=first, show=world.main) as bar:
        clock, skipped = Clock(), 0
        for done, batch in enumerate(batches, first + 1):
            clock.got_data()
            now = schedule(config, done - 1, steps, per_epoch)
            terms = train_step(
                objective, model, optimizer, make_views(batch), mask_noise(config, done - 1, world), now
            )
            skipped += int(batch["skipped"].sum())
            if done % config.run.log_every == 0 or done in (1, steps):
                row = {"step": done, "epoch": done / per_epoch, "time": time.time(), **now}
                row |= _measured(terms, skipped, world)
                telemetry.log(row | clock.step(config.optim.batch_size))
                bar.note(f"loss {row['loss']:.3f}")
                if not math.isfinite(row["loss"]):
                    break
            if done % config.run.checkpoint_every == 0 and world.main:
                checkpoints.save(done, model, optimizer)
            bar.advance()
            clock.start()

    verdict = judge(telemetry.rows, config.projector.out_dim)
    if world.main:
        if verdict.verdict != "non_finite":
            checkpoints.save(done, model, optimizer)
            save_encoders(model, config, out / "encoders")
            save_pictures(model, data, out / "reconstruction.pt")
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
    """What the schedules say for a step, 0 ... steps-1 (Table S4)."""
    optim = config.optim
    warmup = optim.warmup_epochs * per_epoch
    return {
        "lr": learning_rate(step, steps=steps, warmup=warmup, base=optim.lr, final=optim.lr_final),
        "weight_decay": optim.weight_decay,
        "momentum": cosine(step, steps, optim.ema_base, optim.ema_final),
    }


def train_step(
    objective: nn.Module,
    model: XKD,
    optimizer: torch.optim.Optimizer,
    views: dict[Modality, list[Tensor]],
    noise: dict[Modality, Tensor],
    now: dict[str, float],
) -> dict[str, Tensor]:
    """One step: objective, gradients, clipping, AdamW, teachers.

    Args:
        objective: `model`, or the wrapper that averages its gradients over processes.
        now: the step's ``lr`` and ``momentum``, from `schedule`.

    Returns:
        The terms of the objective and ``grad_norm`` before clipping; nothing waits for the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = now["lr"]
    optimizer.zero_grad()
    terms: dict[str, Tensor] = objective(views, noise)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    grad_norm = clip_gradients(model.student.parameters(), model.config.optim.clip_norm)
    optimizer.step()
    model.update_teachers(now["momentum"])
    return {name: term.detach() for name, term in terms.items()} | {"grad_norm": grad_norm}


def mask_noise(config: PretrainConfig, step: int, world: World) -> dict[Modality, Tensor]:
    """The noise that chooses the hidden tokens: this process's rows of the step's global batch."""
    generator = torch.Generator().manual_seed(config.run.seed * 2**32 + step)
    batch = config.optim.batch_size
    noise: dict[Modality, Tensor] = {}
    for m in MODALITIES:
        rows = torch.rand(batch, math.prod(config.modality(m).grid), generator=generator)
        noise[m] = rows.chunk(world.size)[world.rank].to(world.device)
    return noise


def _resume(checkpoints: Checkpoints, model: XKD, optimizer: torch.optim.Optimizer, world: World) -> int:
    """Load the newest checkpoint, if there is one; the number of steps done."""
    state = checkpoints.load_newest(world.device)
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


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
