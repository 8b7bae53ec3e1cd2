"""The clips, views and settings of one fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from xkd.config import FinetuneConfig, Modality, PretrainConfig
from xkd.data.datasets.training import steps_per_epoch
from xkd.data.shards.manifest import Clip
from xkd.errors import UserError
from xkd.evaluation.protocols.protocol import Evaluation


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
    def clips(self) -> tuple[Sequence[Clip], Sequence[Clip]]:
        """Clips to train on, and with early stopping those to choose an epoch on."""
        if not self.settings.patience:
            return self.splits.train, []
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
        if side < 1 or any(side % length for length in video.patch[1:]):
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
