"""Fine-tuning: an encoder and a classifier are trained on labeled clips of one modality (supplement A.6)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from xkd.config.overrides import to_dict
from xkd.data.datasets.evaluation import FinetuneClips
from xkd.data.datasets.training import ClipSampler, steps_per_epoch
from xkd.data.shards.manifest import Clip
from xkd.data.shards.reader import load_batches
from xkd.data.transforms.params import Item
from xkd.errors import RunInterruptedError, UserError
from xkd.evaluate.protocols.classifier import Classifier
from xkd.evaluate.protocols.finetune_step import Epoch, FinetuneJob, FinetuneStepper, Rows, predict
from xkd.io import try_lock
from xkd.launch.distributed import DistributedContext
from xkd.launch.interrupts import StopSignal
from xkd.model.vit import Encoder
from xkd.progress import progress
from xkd.train.checkpoint import Checkpoints
from xkd.train.schedules import learning_rate
from xkd.weights import read_weights, save_weights

_SAVE_EVERY = 60.0
"""Seconds of training that an interruption costs, or more where saving takes long."""
_SAVING_SHARE = 50
"""Training takes at least so many times as long as saving its state."""


def check(lesson: FinetuneJob, context: DistributedContext) -> int:
    """Steps of an epoch.

    Raises:
        UserError: see `FinetuneJob.views`; the batch does not fit the clips or processes, or cannot be mixed.
    """
    tuning, _ = lesson.tuning, lesson.views
    if lesson.many_labels and tuning.label_smoothing:
        raise UserError("finetune.label_smoothing is for clips with one label; set it to 0")
    per_epoch = steps_per_epoch(len(lesson.train), tuning.batch_size, context.size, tuning.accumulate)
    part = tuning.batch_size // (context.size * tuning.accumulate)
    if lesson.mixes and part % 2:
        raise UserError(
            f"finetune.batch_size {tuning.batch_size} makes parts of {part} clips, and MixUp and CutMix "
            "pair them; choose a batch with an even number of clips in each part"
        )
    return per_epoch


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning came to."""

    decisions: Rows
    """(test clips, classes) in [0, 1]; see `predict`."""
    curve: list[Epoch]


def fine_tune(
    encoder: Encoder,
    lesson: FinetuneJob,
    classes: Sequence[str],
    test: Sequence[Clip],
    folder: Path,
    context: DistributedContext,
) -> FinetuneResult:
    """Fine-tune an encoder, publish it as ``classifier.safetensors`` and ask it about test clips.

    What `folder` holds of it already is not done again; all else as of `train`.

    Args:
        encoder: where training starts.
        lesson: what is learned.
        classes: names of the classes, in the order of `lesson.labels`.
        test: clips that nothing is learned from.
        folder: of this fine-tuning alone.
        context: the processes that train together.
    """
    check(lesson, context)
    torch.manual_seed(lesson.seed)
    classifier = Classifier(encoder, len(classes), lesson.tuning.dropout)
    path = folder / "classifier.safetensors"
    with _to_oneself(folder, context):
        if context.broadcast_flag(path.is_file):
            weights, facts = read_weights(path, "classifier")
            classifier.load_state_dict(weights)
            curve = facts["curve"]
        else:
            curve = train(classifier.to(context.device), lesson, folder / "checkpoints", context)
            facts = {"modality": lesson.modality, "config": to_dict(lesson.config), "classes": list(classes)}
            facts |= {"view": lesson.views.modality(lesson.modality).global_view, "curve": curve}
            if context.is_main:
                save_weights(classifier.state_dict(), facts, path)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        classifier.to(context.device)
        context.barrier()
        return FinetuneResult(predict(classifier, lesson, test, context), curve)


@contextmanager
def _to_oneself(folder: Path, context: DistributedContext) -> Iterator[None]:
    """Have a folder, which another attempt at the same may still be saving to."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        while not context.broadcast_flag(lambda: try_lock(file)):
            time.sleep(1)
        yield


def train(
    classifier: Classifier, lesson: FinetuneJob, folder: Path, context: DistributedContext
) -> list[Epoch]:
    """Train a classifier, or go on where an earlier process stopped; it ends up with its final weights.

    All randomness is drawn from (seed, step) or (seed, epoch, clip), so a resumed fine-tuning continues
    bit-equal.

    Args:
        classifier: on the world's device.
        lesson: what is learned.
        folder: gets the checkpoints.
        context: the processes that train together.

    Returns:
        The learning curve.

    Raises:
        UserError: see `check`; a clip cannot be read; or the loss is not finite.
        RunInterruptedError: SIGTERM or SIGINT came; the state is saved.
    """
    per_epoch, tuning = check(lesson, context), lesson.tuning
    steps, warmup = tuning.epochs * per_epoch, tuning.warmup_epochs * per_epoch
    final = tuning.lr if tuning.lr_final is None else tuning.lr_final
    tuner = FinetuneStepper(classifier, lesson, context)
    checkpoints = Checkpoints(folder, keep=1)
    first = checkpoints.resume(tuner)
    batches, save_at = _batches(lesson, first, steps, context), time.monotonic() + _SAVE_EVERY
    with (
        progress(f"fine-tuning {lesson.name}", steps, done=first, show=context.is_main) as bar,
        StopSignal() as signal,
    ):
        for done in range(first + 1, steps + 1):
            if tuner.patience_is_over:
                break
            lr = learning_rate(done - 1, steps=steps, warmup=warmup, base=tuning.lr, final=final)
            tuner.step(done, list(islice(batches, tuning.accumulate)), lr)
            if done % per_epoch == 0:
                tuner.end_epoch(done // per_epoch, per_epoch, lr)
                bar.note(f"loss {tuner.curve[-1]['loss']:.3f}")
            stopping = bool(context.all_reduce_max(signal.received))
            if stopping or context.broadcast_flag(lambda: time.monotonic() > save_at):  # noqa: B023
                tuner.check_finite(done / per_epoch)
                begin = time.monotonic()
                if context.is_main:
                    checkpoints.save(done, tuner)
                # Large networks take long to write.
                save_at = time.monotonic() + max(_SAVE_EVERY, _SAVING_SHARE * (time.monotonic() - begin))
            if stopping:
                context.barrier()
                raise RunInterruptedError(
                    f"asked to stop; step {done} of {steps} is saved, and the same command goes on"
                )
            bar.advance()
    if tuner.best is not None:
        classifier.load_state_dict(tuner.best)
    return tuner.curve


def _batches(lesson: FinetuneJob, first: int, steps: int, context: DistributedContext) -> Iterator[Item]:
    """This process's parts of the batches of steps `first` ... `steps` - 1."""
    tuning = lesson.tuning
    clips = FinetuneClips(lesson.dataset, lesson.train, lesson.views, lesson.modality, tuning, lesson.seed)
    order = ClipSampler(
        len(clips),
        tuning.batch_size,
        lesson.seed,
        first,
        steps,
        context.rank,
        context.size,
        tuning.accumulate,
    )
    return load_batches(clips, order, lesson.config.run.workers)
