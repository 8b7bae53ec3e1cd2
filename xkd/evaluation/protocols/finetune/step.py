"""The data of one fine-tuning, its step, and predictions of the classifier (supplement A.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from xkd.config import FinetuneConfig, Modality, PretrainConfig
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.datasets.training import steps_per_epoch
from xkd.data.shards.clips import Clips
from xkd.data.transforms.finetune import seeded
from xkd.data.transforms.params import Item, finetune_views
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.evaluation.metrics import Predictions
from xkd.evaluation.protocols.finetune.classifier import Classifier, layer_groups
from xkd.evaluation.protocols.linear_head import classification_loss
from xkd.evaluation.protocols.protocol import Evaluation
from xkd.train.step import SMALLEST_SCALE, autocast, exchange_gradients, precision

Epoch = dict[str, float]
"""``epoch``, ``loss``, ``lr``, and with early stopping ``validation``."""


@dataclass(frozen=True, kw_only=True)
class FinetuneJob(Evaluation):
    """An evaluation by fine-tuning."""

    @property
    def settings(self) -> FinetuneConfig:
        """The settings of its task."""
        assert self.task.finetune is not None
        return self.task.finetune

    @property
    def modality(self) -> Modality:
        """The only modality of its task."""
        (modality,) = self.task.inputs
        return modality

    @cached_property
    def clips(self) -> tuple[Clips, Clips]:
        """Clips to train on, and with early stopping those to choose an epoch on."""
        if not self.settings.patience:
            return self.splits.train, self.splits.train[:0]
        return self.splits.hold_out(self.modality, self.task.seed)

    @property
    def view_config(self) -> PretrainConfig:
        """The run's configuration with video views of the resolution of fine-tuning.

        Raises:
            UserError: the resolution is not a multiple of the patch.
        """
        if self.modality != "video":
            return self.config
        video, side = self.config.video, self.settings.video.resolution
        if side is None:
            return self.config
        if any(side % length for length in video.patch[1:]):
            raise UserError(
                f"finetune.video.resolution {side} must be a multiple of the encoder's patch "
                f"{video.patch[1:]}"
            )
        return replace(self.config, video=replace(video, global_view=(video.global_view[0], side, side)))

    @property
    def mixes(self) -> bool:
        """Whether clips of a batch are mixed."""
        video = self.settings.video
        return self.modality == "video" and (video.mixup > 0 or video.cutmix > 0)

    def steps_per_epoch(self) -> int:
        """Return the number of steps per epoch.

        Raises:
            UserError: see `view_config`; the batch does not fit the clips or processes, or cannot be mixed.
        """
        settings, processes, _ = self.settings, self.context.size, self.view_config
        if self.multi_label and settings.label_smoothing:
            raise UserError("finetune.label_smoothing requires one label per clip; set it to 0")
        steps = steps_per_epoch(len(self.clips[0]), settings.batch_size, processes, settings.accumulate)
        part = settings.batch_size // (processes * settings.accumulate)
        if self.mixes and part % 2:
            raise UserError(
                f"batch_size {settings.batch_size} gives parts of {part} clips, but MixUp and CutMix pair "
                "them; choose a batch_size with an even number of clips per part"
            )
        return steps


class FinetuneStepper:
    """Trains a classifier step by step; every process has the same state."""

    def __init__(self, classifier: Classifier, job: FinetuneJob) -> None:
        self.classifier, self.job, self.context = classifier, job, job.context
        # timm's groups have an lr_scale: the factor of the layer's learning rate.
        self.optimizer = torch.optim.AdamW(layer_groups(classifier, job.settings), lr=job.settings.lr)
        self.dtype = precision(job.settings.precision, job.context.device)
        self.scaler = GradScaler(job.context.device.type, enabled=self.dtype is torch.float16)
        self.objective = DistributedDataParallel(classifier) if job.context.size > 1 else classifier
        config = job.view_config
        self.views = Views(config, finetune_views(config, job.settings)).to(job.context.device)
        self.labels = torch.from_numpy(job.splits.label_sets(job.clips[0]))
        self.curve: list[Epoch] = []
        self.best: dict[str, Tensor] | None = None
        """The weights of the best epoch, with early stopping."""
        self._loss = torch.zeros((), device=job.context.device)  # sum over the epoch so far

    @property
    def patience_exhausted(self) -> bool:
        """Whether the validation score has not improved for `patience` epochs."""
        scores = [epoch["validation"] for epoch in self.curve if "validation" in epoch]
        return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= self.job.settings.patience

    def step(self, number: int, parts: Sequence[Item], lr: float) -> None:
        """Take a step on this process's parts of the batch; steps are numbered from 1."""
        self.classifier.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.optimizer.zero_grad()
        seed = (self.job.task.seed * 2**20 + number) * self.context.size + self.context.rank
        torch.manual_seed(seed)
        total = torch.zeros_like(self._loss)
        for place, batch in enumerate(parts, 1):
            (view,) = self.views(batch)[self.job.modality]
            labels = self.labels[batch["clip"]].to(view.device, torch.float32)
            view, targets = self._mix(view, labels, seed * len(parts) + place)
            with exchange_gradients(self.objective, when=place == len(parts)):
                with autocast(view.device, self.dtype):
                    logits = self.objective(view)
                loss = classification_loss(logits.float(), targets, multi_label=self.job.multi_label)
                loss = loss / len(parts)
                torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        total = self.context.all_reduce_mean(total)
        # The gradient scaler skips a step that overflowed, and so does the mean loss.
        self._loss += total.nan_to_num(0.0, 0.0, 0.0) if self.scaler.is_enabled() else total

    def end_epoch(self, epoch: int, lr: float) -> None:
        """Record an epoch; with early stopping, score the validation clips and keep the best weights."""
        self.check_finite(epoch)
        loss = self._loss.item() / self.job.steps_per_epoch()
        self._loss.zero_()
        row = {"epoch": float(epoch), "loss": loss, "lr": lr}
        if self.job.settings.patience:
            _, validation = self.job.clips
            predictions = predict(self.classifier, self.job, validation)
            row["validation"] = self.job.measure(predictions, validation)["score"]
            if all(row["validation"] > before["validation"] for before in self.curve):
                weights = self.classifier.state_dict()
                self.best = {name: weight.to("cpu", copy=True) for name, weight in weights.items()}
        self.curve.append(row)

    def check_finite(self, epoch: float) -> None:
        """Check the loss since the epoch began.

        Raises:
            UserError: it is not finite, or gradients overflow at any loss scale.
        """
        overflows = self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE
        if overflows or not isfinite(self._loss.item()):
            raise UserError(f"the loss is not finite in epoch {epoch:.2g}; lower finetune.lr")

    def _mix(self, view: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return the view and its targets (B, classes), erased, mixed and smoothed as the settings say."""
        video, smoothing = self.job.settings.video, self.job.settings.label_smoothing
        if not self.job.multi_label:
            labels = labels * (1 - smoothing) + smoothing / labels.shape[1]
        if self.job.modality != "video":
            return view, labels
        from timm.data import Mixup  # slow import
        from timm.data.random_erasing import RandomErasing

        # timm's boxes span the last two of four axes. With time and color as one axis these are height and
        # width; on five axes, as in the authors' code, they would be time and height.
        pictures = view.flatten(1, 2)
        with seeded(seed % 2**32):
            if video.erasing:
                pictures = RandomErasing(video.erasing, mode="pixel", device=str(view.device))(pictures)
            if self.job.mixes:
                mix = Mixup(video.mixup, video.cutmix, label_smoothing=smoothing, num_classes=labels.shape[1])
                pictures, labels = mix(pictures, labels.argmax(dim=1))
        return pictures.reshape(view.shape), labels

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next step depends on, and the curve."""
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
def predict(classifier: Classifier, job: FinetuneJob, clips: Clips) -> Predictions:
    """Return predictions (clips, classes) in [0, 1] on every process: means over evenly spaced windows (A.6).

    The mean is over probabilities; for clips with several labels over logits, as in the authors' code.
    """
    classifier.eval()
    context, windows = job.context, job.task.test_windows
    mine, means = slice(context.rank, None, context.size), []
    found = torch.zeros(len(clips), classifier.head.out_features, device=context.device)
    config, dtype = job.view_config, precision(job.settings.precision, context.device)
    views, dataset = Views(config).to(context.device), job.splits.dataset
    for batch in evaluation_batches(dataset, clips[mine], config, windows, modalities=(job.modality,)):
        view = views.plain(batch)[job.modality]
        with autocast(view.device, dtype):
            logits = classifier(view)
        outputs = logits.float() if job.multi_label else logits.float().softmax(dim=1)
        means.append(outputs.unflatten(0, (-1, windows)).mean(dim=1))
    if means:  # with fewer clips than processes, some have none
        found[mine] = torch.cat(means)
    found = context.all_reduce_mean(found) * context.size
    predictions: Predictions = (found.sigmoid() if job.multi_label else found).cpu().numpy()
    return predictions
