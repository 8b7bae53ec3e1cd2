"""Pretraining: the loop of section 3, on every process that torchrun starts."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xkd.config import MODALITIES, Modality, PretrainConfig, load_config
from xkd.data.clips import TrainingClips, training_batches
from xkd.data.views import Views
from xkd.errors import UserError
from xkd.method.model import XKD
from xkd.method.schedule import cosine, learning_rate
from xkd.progress import progress
from xkd.train.checkpoint import Checkpoints, save_encoders
from xkd.train.distributed import World, join_world
from xkd.train.optimizer import build_optimizer, clip_gradients
from xkd.train.pictures import save_pictures
from xkd.train.run import Run
from xkd.watch.collapse import Verdict, judge
from xkd.watch.telemetry import Telemetry

Views_ = dict[Modality, list[Tensor]]


def pretrain(config: PretrainConfig, data: Path, out: Path) -> Verdict:
    """Train XKD on prepared clips, or go on where an earlier process of the same run stopped.

    Writes to `out`: config.yaml, run.json, metrics.jsonl, checkpoints/, and at the end encoders/,
    reconstruction.pt and verdict.json. All randomness is drawn from (seed, step) or from (seed, epoch,
    clip), so a resumed run continues bit-equal and the batches do not depend on the number of processes.

    Raises:
        UserError: `out` holds another run, the data does not fit, or the disk is full.
    """
    with join_world() as world:
        clips = TrainingClips(data, config)
        run = Run(out, config, clips.manifest, world)
        if run.finished:
            return run.verdict()
        per_epoch = _steps_per_epoch(len(clips), config, world)
        steps, warmup = config.optim.epochs * per_epoch, config.optim.warmup_epochs * per_epoch

        torch.manual_seed(config.run.seed)
        model = XKD(config).to(world.device)
        optimizer = build_optimizer(model, config.optim)
        checkpoints = Checkpoints(out / "checkpoints", config.run.keep_checkpoints)
        first = _resume(checkpoints, model, optimizer, world)
        telemetry = Telemetry(out, config.run.metrics_port, first) if world.main else None
        run.started(first, steps, telemetry.address if telemetry else None)

        objective = DistributedDataParallel(model, broadcast_buffers=False) if world.size > 1 else model
        make_views = Views(config).to(world.device)
        batches = training_batches(clips, config, first, steps, world.rank, world.size)
        skipped = 0
        with progress("pretrain", steps, done=first, show=world.main) as bar:
            tick = time.perf_counter()
            for step, batch in enumerate(batches, first):
                waited = time.perf_counter() - tick
                lr = learning_rate(
                    step, steps=steps, warmup=warmup, base=config.optim.lr, final=config.optim.lr_final
                )
                momentum = cosine(step, steps, config.optim.ema_base, config.optim.ema_final)
                terms, grad_norm = train_step(
                    objective,
                    model,
                    optimizer,
                    make_views(batch),
                    mask_noise(config, step, world),
                    lr,
                    momentum,
                )
                skipped += int(batch["skipped"].sum())
                done = step + 1
                if done % config.run.log_every == 0 or done in (1, steps):
                    row = _row(terms, grad_norm, world)
                    seconds = time.perf_counter() - tick
                    row |= {"step": done, "epoch": done / per_epoch, "time": time.time(), "lr": lr}
                    row |= {"momentum": momentum, "weight_decay": config.optim.weight_decay}
                    row |= {"step_seconds": seconds, "samples_per_second": config.optim.batch_size / seconds}
                    row |= {"data_wait_ratio": waited / seconds, "skipped_clips": skipped}
                    if telemetry:
                        telemetry.log(row)
                    bar.note(f"loss {row['loss']:.3f}")
                    if not math.isfinite(row["loss"]):
                        break
                if done % config.run.checkpoint_every == 0 and world.main and done < steps:
                    checkpoints.save(done, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
                bar.advance()
                tick = time.perf_counter()

        if world.main and telemetry:
            checkpoints.save(done, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
            save_encoders(model, config, out / "encoders")
            save_pictures(model, data, out / "reconstruction.pt")
            run.finish(judge(telemetry.rows, config.projector.out_dim), skipped)
        world.barrier()
        return run.verdict()


def train_step(
    objective: nn.Module,
    model: XKD,
    optimizer: torch.optim.Optimizer,
    views: Views_,
    noise: dict[Modality, Tensor],
    lr: float,
    momentum: float,
) -> tuple[dict[str, Tensor], Tensor]:
    """One step: objective, gradients, clipping, AdamW, teachers.

    Args:
        objective: `model`, or the wrapper that averages its gradients over processes.

    Returns:
        The terms of the objective, and the gradients' norm before clipping; nothing waits for the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    terms: dict[str, Tensor] = objective(views, noise)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    grad_norm = clip_gradients(model.student.parameters(), model.config.optim.clip_norm)
    optimizer.step()
    model.update_teachers(momentum)
    return {name: term.detach() for name, term in terms.items()}, grad_norm


def mask_noise(config: PretrainConfig, step: int, world: World) -> dict[Modality, Tensor]:
    """The noise that chooses the hidden tokens: this process's rows of the step's global batch."""
    generator = torch.Generator().manual_seed(config.run.seed * 2**32 + step)
    rows = config.optim.batch_size // world.size
    mine = slice(world.rank * rows, (world.rank + 1) * rows)
    return {
        m: torch.rand(config.optim.batch_size, math.prod(config.modality(m).grid), generator=generator)[
            mine
        ].to(world.device)
        for m in MODALITIES
    }


def _steps_per_epoch(clips: int, config: PretrainConfig, world: World) -> int:
    batch = config.optim.batch_size
    if batch % world.size:
        raise UserError(f"optim.batch_size {batch} must be a multiple of the {world.size} processes")
    if clips < batch:
        raise UserError(f"optim.batch_size {batch} is more than the {clips} training clips; set it lower")
    return clips // batch


def _resume(checkpoints: Checkpoints, model: XKD, optimizer: torch.optim.Optimizer, world: World) -> int:
    """Load the newest checkpoint, if there is one; the number of steps done."""
    state = checkpoints.load_newest(world.device)
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _row(terms: dict[str, Tensor], grad_norm: Tensor, world: World) -> dict[str, Any]:
    """The step's numbers, averaged over processes; the one place that waits for the device."""
    names = [*terms, "grad_norm"]
    values = world.mean(torch.stack([*terms.values(), grad_norm]))
    return dict(zip(names, values.tolist(), strict=True))


def main(arguments: list[str] | None = None) -> int:
    """The process that torchrun starts: ``--config FILE --data DIR --out RUN``."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m xkd.train.pretrain", description=__doc__)
    for name in ("config", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        pretrain(load_config(given.config), given.data, given.out)
    except UserError as error:
        print(f"xkd: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
