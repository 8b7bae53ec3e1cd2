"""Views: the augmented tensors that the networks see (Tables S1, S2; method notes, section 9).

All randomness is drawn beforehand, for each sample (`draws.draw`); `Views` only computes, on whole batches
and on whatever device the batch is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xkd.config import AudioAugment, Modality, PretrainConfig, VideoAugment
from xkd.data.transforms.color import jitter, to_gray
from xkd.data.transforms.finetune import mask_spectrogram
from xkd.data.transforms.logmel import LogMel
from xkd.data.transforms.params import Recipe, pretrain_recipe
from xkd.data.transforms.resample import cubic, gaussian
from xkd.parallel.threads import over_samples

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BLUR_KERNEL = 9

Batch = Mapping[str, Any]


class Views(nn.Module):
    """Batch of clips → augmented views, on the device this module is on.

    Args:
        config: sizes and the front end.
        recipe: the views to make; None: those of pretraining.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PretrainConfig, recipe: Recipe | None = None) -> None:
        super().__init__()
        self.recipe = recipe or pretrain_recipe(config)
        self.clip, self.size = config.clip, config.video.global_view
        self.log_mel = LogMel(config.clip, config.audio.global_view[0])
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> dict[Modality, list[Tensor]]:
        """Make the views of a collated batch.

        Args:
            batch: ``frames`` uint8 (B, T, 3, H, W), ``waveform`` float (B, S), on any device; ``draws``
                as `draw` returns them, with a leading batch axis, on the CPU. Without ``frames`` or
                ``waveform`` the other modality alone is made.

        Returns:
            For each modality the views of the recipe, global first: video (B, 3, T, H, W), audio
            (B, 1, mels, frames), both standardized.
        """
        device = self.mean.device
        views: dict[Modality, list[Tensor]] = {}
        if "frames" in batch:
            frames = batch["frames"].to(device, non_blocking=True)
            views["video"] = [
                self._video(frames, augment, size, _of_view(batch["draws"], number))
                for number, (augment, size) in enumerate(self.recipe.video)
            ]
        if "waveform" in batch:
            waveform = batch["waveform"].to(device, non_blocking=True)
            views["audio"] = [
                self._audio(waveform, augment, size, _of_view(batch["draws"], number))
                for number, (augment, size) in enumerate(self.recipe.audio)
            ]
        return views

    @torch.no_grad()
    def plain(self, batch: Batch) -> dict[Modality, Tensor]:
        """The global views without augmentation: the frames' centers, and the whole waveform.

        Args:
            batch: as for `forward`, without draws; the frames' short side is the global view's.
        """
        views: dict[Modality, Tensor] = {}
        if "frames" in batch:
            frames = batch["frames"].to(self.mean.device, non_blocking=True)
            _, height, width = self.size
            top, left = (frames.shape[-2] - height) // 2, (frames.shape[-1] - width) // 2
            video = frames[..., top : top + height, left : left + width].transpose(1, 2).float()
            views["video"] = video.div_(255).sub_(self.mean).div_(self.std)
        if "waveform" in batch:
            views["audio"] = self.log_mel(batch["waveform"].to(self.mean.device, non_blocking=True))
        return views

    def _video(
        self, frames: Tensor, augment: VideoAugment, size: tuple[int, ...], draws: Mapping[str, Tensor]
    ) -> Tensor:
        """One video view of every sample, (B, 3, T, H, W)."""
        device = frames.device
        factors, sigma = draws["video_jitter"].to(device), draws["video_sigma"].to(device)
        starts, boxes, flips = (draws[f"video_{name}"].tolist() for name in ("start", "box", "flip"))
        views = torch.empty(len(frames), 3, *size, device=device)

        def make(part: slice) -> None:
            x = views[part]
            for number, view in enumerate(x, start=part.start):
                start, box, flip = starts[number], boxes[number], flips[number]
                view.copy_(_cut(frames[number, start : start + size[0]], box, size[1:], flip))
            jitter(x.mul_(1 / 255), factors[part], draws["video_order"][part])
            gray, blurred = (
                draws[name][part].nonzero()[:, 0].to(device) for name in ("video_gray", "video_sigma")
            )
            if len(gray):
                x[gray] = to_gray(x[gray]).expand(-1, 3, -1, -1, -1)
            if len(blurred):
                x[blurred] = _blur(x[blurred], sigma[part][blurred], augment.blur_vertical)
            x.sub_(self.mean).mul_(1 / self.std)

        over_samples(make, len(frames), device)
        return views

    def _audio(
        self, waveform: Tensor, augment: AudioAugment, size: tuple[int, ...], draws: Mapping[str, Tensor]
    ) -> Tensor:
        """One audio view of every sample, (B, 1, mels, frames)."""
        device, (mels, frames) = waveform.device, size
        samples = torch.arange(min(self.clip.samples(frames), waveform.shape[1]), device=device)
        part = waveform.gather(1, draws["audio_start"].to(device)[:, None] + samples)
        view: Tensor = self.log_mel(part * draws["audio_volume"].to(device)[:, None])[..., :frames]
        if self.recipe.masks:
            view = mask_spectrogram(view, draws)
        if augment.crop_range is None:
            return view
        top, left, height, width = draws["audio_box"].to(device).unbind(1)
        canvas = int(frames * augment.crop_canvas)
        margin = (canvas - frames) // 2
        rows = cubic(top, height, mels, mels)[:, None]
        # The canvas around the view is zero: its columns of the matrix need not be multiplied.
        columns = cubic(left, width, frames, canvas)[:, None, :, margin : margin + frames]
        return torch.matmul(rows @ view, columns.transpose(-2, -1))


def _of_view(draws: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    return {name: values[:, number] for name, values in draws.items() if number < values.shape[1]}


def _cut(frames: Tensor, box: Sequence[int], size: tuple[int, ...], flip: bool) -> Tensor:
    """Crop, resize and flip the frames of one sample: uint8 (T, 3, H, W) → levels of 255 (3, T, *size)."""
    top, left, height, width = box
    seen = frames[..., top : top + height, left : left + width]
    if seen.is_cuda:  # where no bytes can be resized; PIL and the CPU's kernel round
        resized = F.interpolate(seen.float(), size, mode="bilinear", antialias=True).round_()
    else:
        resized = F.interpolate(seen, size, mode="bilinear", antialias=True).contiguous()
    return (resized.flip(-1) if flip else resized).transpose(0, 1)


def _blur(x: Tensor, sigma: Tensor, vertical: bool) -> Tensor:
    """Gaussian blur of (B, 3, T, H, W) with each sample's own sigma, or along the height alone."""
    rows, columns = (gaussian(sigma, _BLUR_KERNEL, size)[:, None, None] for size in x.shape[-2:])
    return rows @ (x if vertical else x @ columns.transpose(-2, -1))


def to_pixels(video: Tensor) -> Tensor:
    """Standardized video (B, 3, T, H, W) → pictures in [0, 1]."""
    mean, std = (torch.tensor(values, device=video.device).view(3, 1, 1, 1) for values in (_MEAN, _STD))
    return (video * std + mean).clamp_(0, 1)
