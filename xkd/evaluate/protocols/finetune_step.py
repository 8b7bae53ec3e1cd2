"""One step of fine-tuning, and what the classifier then says of clips (supplement A.6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from xkd.config import FinetuneConfig, Modality, PretrainConfig
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import Clip, PreparedDataset
from xkd.data.transforms.finetune import seeded
from xkd.data.transforms.params import Item, finetune_views
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.evaluate.protocols.classifier import Classifier, layer_groups
from xkd.launch.distributed import DistributedContext
from xkd.train.step import SMALLEST_SCALE, autocast, exchange_gradients, precision

Rows = NDArray[np.floating[Any]]
Epoch = dict[str, float]
"""``epoch``, ``loss``, ``lr`` and perhaps ``validation``."""


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """What is to be learned, and how."""

    name: str
    """For the progress."""
    dataset: PreparedDataset
    """Holds the clips."""
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

    @property
    def mixes(self) -> bool:
        """Whether clips of a batch are mixed."""
        video = self.tuning.video
        return self.modality == "video" and (video.mixup > 0 or video.cutmix > 0)


class FinetuneStepper:
    """Trains a classifier step by step; every process has the same state."""

    def __init__(self, classifier: Classifier, lesson: FinetuneJob, context: DistributedContext) -> None:
        self.classifier, self.lesson, self.context = classifier, lesson, context
        # timm's groups carry the share of the learning rate that a layer has.
        self.optimizer = torch.optim.AdamW(layer_groups(classifier, lesson.tuning), lr=lesson.tuning.lr)
        self.dtype = precision(lesson.tuning.precision, context.device)
        self.scaler = GradScaler(context.device.type, enabled=self.dtype is torch.float16)
        self.objective = DistributedDataParallel(classifier) if context.size > 1 else classifier
        config = lesson.views
        self.views = Views(config, finetune_views(config, lesson.tuning)).to(context.device)
        self.labels = torch.from_numpy(lesson.labels)
        self.curve: list[Epoch] = []
        self.best: dict[str, Tensor] | None = None
        """The weights of the best epoch, where epochs are chosen."""
        self._loss = torch.zeros((), device=context.device)  # sum over the epoch so far

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
        seed = (self.lesson.seed * 2**20 + number) * self.context.size + self.context.rank
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
        total = self.context.all_reduce_mean(total)
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
                predict(self.classifier, self.lesson, self.lesson.validation, self.context)
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
            if self.lesson.mixes:
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
def predict(
    classifier: Classifier, lesson: FinetuneJob, clips: Sequence[Clip], context: DistributedContext
) -> Rows:
    """What a classifier says of clips: the mean over evenly spaced windows (A.6).

    The mean is over probabilities; where a clip has many labels over logits, as in the authors' code.

    Returns:
        (clips, classes) in [0, 1], the same on every process.
    """
    classifier.eval()
    mine = list(range(context.rank, len(clips), context.size))
    found = torch.zeros(len(clips), classifier.head.out_features, device=context.device)
    config, done = lesson.views, 0
    views = Views(config).to(context.device)
    dtype = precision(lesson.tuning.precision, context.device)
    for batch in evaluation_batches(
        lesson.dataset,
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
    found = context.all_reduce_mean(found) * context.size
    rows: Rows = (found.sigmoid() if lesson.many_labels else found).cpu().numpy()
    return rows
