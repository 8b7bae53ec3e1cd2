"""Fine-tuning: an encoder and a classifier are trained on labeled clips of one modality (supplement A.6)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from xkd.config import FinetuneConfig, Modality, PretrainConfig
from xkd.data.clips import ClipSampler, steps_per_epoch
from xkd.data.downstream import FinetuneClips, evaluation_batches
from xkd.data.draws import finetune_recipe
from xkd.data.manifest import Clip
from xkd.data.reading import Item, load_batches
from xkd.data.strong import seeded
from xkd.data.views import Views
from xkd.errors import UserError
from xkd.files import lock
from xkd.method.schedule import learning_rate
from xkd.method.vit import Encoder
from xkd.progress import progress
from xkd.settings import to_dict
from xkd.train.checkpoint import Checkpoints, publish, read_published
from xkd.train.classifier import Classifier, layer_groups
from xkd.train.distributed import World
from xkd.train.step import SMALLEST_SCALE, autocast, exchange_gradients, precision
from xkd.train.stop import StoppedError, StopSignal

Rows = NDArray[np.floating[Any]]
Epoch = dict[str, float]
"""``epoch``, ``loss``, ``lr`` and perhaps ``validation``."""

NAMES = ("finetune.batch_size", "finetune.accumulate")
_SAVE_EVERY = 60.0
"""Seconds of training that an interruption costs, or more where saving takes long."""
_SAVING_SHARE = 50
"""Training takes at least so many times as long as saving its state."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is to be learned, and how."""

    name: str
    """For the progress."""
    data: Path
    """Prepared directory that holds the clips."""
    config: PretrainConfig
    """The run's."""
    modality: Modality
    tuning: FinetuneConfig
    train: Sequence[Clip]
    labels: NDArray[np.bool_]
    """(training clips, classes), which of the classes a clip has."""
    many_labels: bool
    """Binary cross-entropy for each class, instead of cross-entropy."""
    validation: Sequence[Clip]
    """Clips that an early stop goes by; none without one."""
    validate: Callable[[Rows], float]
    """Score of what `predict` says of them."""
    windows: int
    """Evenly spaced windows of a clip that is tested."""
    seed: int

    @property
    def views(self) -> PretrainConfig:
        """The run's configuration with video views of the resolution that is fine-tuned on.

        Raises:
            UserError: the patches do not divide it.
        """
        if self.modality != "video":
            return self.config
        video, side = self.config.video, self.tuning.video.resolution
        if side < 1 or any(side % length for length in video.patch[1:]):
            raise UserError(
                f"finetune.video.resolution {side} must be a multiple of the encoder's patch "
                f"{video.patch[1:]}"
            )
        return replace(self.config, video=replace(video, global_view=(video.global_view[0], side, side)))


def check(lesson: Lesson, world: World) -> int:
    """Steps of an epoch.

    Raises:
        UserError: see `Lesson.views`; the batch does not fit the clips or the processes, or cannot be mixed.
    """
    tuning, _ = lesson.tuning, lesson.views
    if lesson.many_labels and tuning.label_smoothing:
        raise UserError("finetune.label_smoothing is for clips with one label; set it to 0")
    per_epoch = steps_per_epoch(len(lesson.train), tuning.batch_size, world.size, tuning.accumulate, NAMES)
    part = tuning.batch_size // (world.size * tuning.accumulate)
    if _mixes(lesson) and part % 2:
        raise UserError(
            f"{NAMES[0]} {tuning.batch_size} makes parts of {part} clips, and MixUp and CutMix pair them; "
            "choose a batch with an even number of clips in each part"
        )
    return per_epoch


@dataclass(frozen=True)
class Tuned:
    """What a fine-tuning came to."""

    decisions: Rows
    """(test clips, classes) in [0, 1]; see `predict`."""
    curve: list[Epoch]


def fine_tune(
    encoder: Encoder,
    lesson: Lesson,
    classes: Sequence[str],
    test: Sequence[Clip],
    folder: Path,
    world: World,
) -> Tuned:
    """Fine-tune an encoder, publish it as ``classifier.safetensors`` and ask it about test clips.

    What `folder` holds of it already is not done again; all else as of `train`.

    Args:
        encoder: where training starts.
        lesson: what is learned.
        classes: names of the classes, in the order of `lesson.labels`.
        test: clips that nothing is learned from.
        folder: of this fine-tuning alone.
        world: the processes that train together.
    """
    check(lesson, world)
    torch.manual_seed(lesson.seed)
    classifier = Classifier(encoder, len(classes), lesson.tuning.dropout)
    path = folder / "classifier.safetensors"
    with _to_oneself(folder, world):
        if world.agreed(path.is_file):
            weights, facts = read_published(path, "classifier")
            classifier.load_state_dict(weights)
            curve = facts["curve"]
        else:
            curve = train(classifier.to(world.device), lesson, folder / "checkpoints", world)
            facts = {"modality": lesson.modality, "config": to_dict(lesson.config), "classes": list(classes)}
            facts |= {"view": lesson.views.modality(lesson.modality).global_view, "curve": curve}
            if world.main:
                publish(classifier.state_dict(), facts, path)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        classifier.to(world.device)
        world.barrier()
        return Tuned(predict(classifier, lesson, test, world), curve)


@contextmanager
def _to_oneself(folder: Path, world: World) -> Iterator[None]:
    """Have a folder, which another attempt at the same may still be saving to."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        while not world.agreed(lambda: lock(file)):
            time.sleep(1)
        yield


def train(classifier: Classifier, lesson: Lesson, folder: Path, world: World) -> list[Epoch]:
    """Train a classifier, or go on where an earlier process stopped; it ends up with its final weights.

    All randomness is drawn from (seed, step) or (seed, epoch, clip), so a resumed fine-tuning continues
    bit-equal.

    Args:
        classifier: on the world's device.
        lesson: what is learned.
        folder: gets the checkpoints.
        world: the processes that train together.

    Returns:
        The learning curve.

    Raises:
        UserError: see `check`; a clip cannot be read; or the loss is not finite.
        StoppedError: SIGTERM or SIGINT came; the state is saved.
    """
    per_epoch, tuning = check(lesson, world), lesson.tuning
    steps, warmup = tuning.epochs * per_epoch, tuning.warmup_epochs * per_epoch
    final = tuning.lr if tuning.lr_final is None else tuning.lr_final
    tuner = Tuner(classifier, lesson, world)
    checkpoints = Checkpoints(folder, keep=1)
    first = checkpoints.resume(tuner)
    batches, save_at = _batches(lesson, first, steps, world), time.monotonic() + _SAVE_EVERY
    with (
        progress(f"fine-tuning {lesson.name}", steps, done=first, show=world.main) as bar,
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
            stopping = bool(world.highest(signal.received))
            if stopping or world.agreed(lambda: time.monotonic() > save_at):  # noqa: B023
                tuner.check_finite(done / per_epoch)
                begin = time.monotonic()
                if world.main:
                    checkpoints.save(done, tuner)
                # Large networks take long to write.
                save_at = time.monotonic() + max(_SAVE_EVERY, _SAVING_SHARE * (time.monotonic() - begin))
            if stopping:
                world.barrier()
                raise StoppedError(
                    f"asked to stop; step {done} of {steps} is saved, and the same command goes on"
                )
            bar.advance()
    if tuner.best is not None:
        classifier.load_state_dict(tuner.best)
    return tuner.curve


class Tuner:
    """Trains a classifier step by step; every process has the same state."""

    def __init__(self, classifier: Classifier, lesson: Lesson, world: World) -> None:
        self.classifier, self.lesson, self.world = classifier, lesson, world
        # timm's groups carry the share of the learning rate that a layer has.
        self.optimizer = torch.optim.AdamW(layer_groups(classifier, lesson.tuning), lr=lesson.tuning.lr)
        self.dtype = precision(lesson.tuning.precision, world.device)
        self.scaler = GradScaler(world.device.type, enabled=self.dtype is torch.float16)
        self.objective = DistributedDataParallel(classifier) if world.size > 1 else classifier
        config = lesson.views
        self.views = Views(config, finetune_recipe(config, lesson.tuning)).to(world.device)
        self.labels = torch.from_numpy(lesson.labels)
        self.curve: list[Epoch] = []
        self.best: dict[str, Tensor] | None = None
        """The weights of the best epoch, where epochs are chosen."""
        self._loss = torch.zeros((), device=world.device)  # sum over the epoch so far

    @property
    def patience_is_over(self) -> bool:
        """Whether the validation clips' score was not better for `tuning.patience` epochs."""
        scores = [epoch["validation"] for epoch in self.curve if "validation" in epoch]
        return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= self.lesson.tuning.patience

    def step(self, number: int, parts: Sequence[Item], lr: float) -> None:
        """One step, from 1, over this process's parts of the batch."""
        self.classifier.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.optimizer.zero_grad()
        seed = (self.lesson.seed * 2**20 + number) * self.world.size + self.world.rank
        torch.manual_seed(seed)
        total = torch.zeros_like(self._loss)
        for place, batch in enumerate(parts, 1):
            (view,) = self.views(batch)[self.lesson.modality]
            labels = self.labels[batch["clip"]].to(view.device, torch.float32)
            view, targets = self._mixed(view, labels, seed * len(parts) + place)
            with exchange_gradients(self.objective, when=place == len(parts)):
                with autocast(view.device, self.dtype):
                    logits = self.objective(view)
                loss = self._criterion(logits.float(), targets) / len(parts)
                torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        total = self.world.mean(total)
        # The scaler leaves out a step that overflowed.
        self._loss += total.nan_to_num(0.0, 0.0, 0.0) if self.scaler.is_enabled() else total

    def end_epoch(self, epoch: int, steps: int, lr: float) -> None:
        """Remember how an epoch went; judge it by the validation clips if it is chosen by them."""
        self.check_finite(epoch)
        loss = self._loss.item() / steps
        self._loss.zero_()
        row = {"epoch": float(epoch), "loss": loss, "lr": lr}
        if self.lesson.tuning.patience:
            row["validation"] = self.lesson.validate(
                predict(self.classifier, self.lesson, self.lesson.validation, self.world)
            )
            if all(row["validation"] > before["validation"] for before in self.curve):
                weights = self.classifier.state_dict()
                self.best = {name: weight.to("cpu", copy=True) for name, weight in weights.items()}
        self.curve.append(row)

    def check_finite(self, epoch: float) -> None:
        """Raise a UserError where the loss was not finite, or gradients overflow at any scale."""
        overflows = self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE
        if overflows or not isfinite(self._loss.item()):
            raise UserError(f"the loss is not finite in epoch {epoch:.2g}; set finetune.lr lower")

    def _mixed(self, view: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The view and its targets (B, classes), erased, mixed and smoothed as the settings say."""
        video, smoothing = self.lesson.tuning.video, self.lesson.tuning.label_smoothing
        if not self.lesson.many_labels:
            labels = labels * (1 - smoothing) + smoothing / labels.shape[1]
        if self.lesson.modality != "video":
            return view, labels
        from timm.data import Mixup  # imported late: it takes seconds
        from timm.data.random_erasing import RandomErasing

        # timm's boxes span the last two of four axes. With time and color as one axis these are height and
        # width; on five axes, as in the authors' code, they would be time and height.
        pictures = view.flatten(1, 2)
        with seeded(seed % 2**32):
            if video.erasing:
                pictures = RandomErasing(video.erasing, mode="pixel", device=str(view.device))(pictures)
            if _mixes(self.lesson):
                mix = Mixup(video.mixup, video.cutmix, label_smoothing=smoothing, num_classes=labels.shape[1])
                pictures, labels = mix(pictures, labels.argmax(dim=1))
        return pictures.reshape(view.shape), labels

    def _criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.lesson.many_labels:
            return F.binary_cross_entropy_with_logits(logits, targets)
        return F.cross_entropy(logits, targets)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, and the curve."""
        return {
            "model": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loss": self._loss,
            "curve": self.curve,
            "best": self.best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.classifier.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self._loss.copy_(state["loss"])
        self.curve, self.best = list(state["curve"]), state["best"]


@torch.no_grad()
def predict(classifier: Classifier, lesson: Lesson, clips: Sequence[Clip], world: World) -> Rows:
    """What a classifier says of clips: the mean over evenly spaced windows (A.6).

    The mean is over probabilities; where a clip has many labels over logits, as in the authors' code.

    Returns:
        (clips, classes) in [0, 1], the same on every process.
    """
    classifier.eval()
    mine = list(range(world.rank, len(clips), world.size))
    found = torch.zeros(len(clips), classifier.head.out_features, device=world.device)
    config, done = lesson.views, 0
    views = Views(config).to(world.device)
    dtype = precision(lesson.tuning.precision, world.device)
    for batch in evaluation_batches(
        lesson.data,
        [clips[place] for place in mine],
        config,
        lesson.windows,
        modalities=(lesson.modality,),
    ):
        view = views.plain(batch)[lesson.modality]
        with autocast(view.device, dtype):
            logits = classifier(view)
        says = logits.float() if lesson.many_labels else logits.float().softmax(dim=1)
        means = says.unflatten(0, (-1, lesson.windows)).mean(dim=1)
        found[mine[done : done + len(means)]] = means
        done += len(means)
    found = world.mean(found) * world.size
    rows: Rows = (found.sigmoid() if lesson.many_labels else found).cpu().numpy()
    return rows


def _mixes(lesson: Lesson) -> bool:
    return lesson.modality == "video" and (lesson.tuning.video.mixup > 0 or lesson.tuning.video.cutmix > 0)


def _batches(lesson: Lesson, first: int, steps: int, world: World) -> Iterator[Item]:
    """This process's parts of the batches of steps `first` ... `steps` - 1."""
    tuning = lesson.tuning
    clips = FinetuneClips(lesson.data, lesson.train, lesson.views, lesson.modality, tuning, lesson.seed)
    order = ClipSampler(
        len(clips), tuning.batch_size, lesson.seed, first, steps, world.rank, world.size, tuning.accumulate
    )
    return load_batches(clips, order, lesson.config.run.workers)
