"""Views: the augmented tensors that the networks see (Tables S1, S2; method notes, section 9).

All randomness is drawn beforehand, for each sample (`draws.draw`); `Views` only computes, on whole batches
and on whatever device the batch is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xkd.config import AudioAugment, Modality, PretrainConfig, VideoAugment
from xkd.data.color import jitter, to_gray
from xkd.data.draws import Recipe, pretrain_recipe
from xkd.data.media import LogMel
from xkd.data.resample import cubic, gaussian, triangle
from xkd.data.threads import over_samples

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
        device, (batch, _, _, height, width) = frames.device, frames.shape
        top, left, box_height, box_width = draws["video_box"].to(device).unbind(1)
        rows = triangle(top, box_height, size[1], height) / 255
        columns = triangle(left, box_width, size[2], width)
        columns = torch.where(draws["video_flip"].to(device)[:, None, None], columns.flip(1), columns)
        factors, sigma = draws["video_jitter"].to(device), draws["video_sigma"].to(device)
        views = torch.empty(batch, 3, *size, device=device)

        def make(part: slice) -> None:
            x, seen = views[part], _hull(draws["video_box"][part])
            cut = frames[part][..., seen[0], seen[1]], rows[part][..., seen[0]], columns[part][..., seen[1]]
            x.copy_(_cut(*cut, draws["video_start"][part], size[0]))
            jitter(x, factors[part], draws["video_order"][part])
            gray = draws["video_gray"][part].nonzero()[:, 0].to(device)
            if len(gray):
                x[gray] = to_gray(x[gray]).expand(-1, 3, -1, -1, -1)
            if augment.blur:
                x.copy_(_blur(x, sigma[part], augment.blur_vertical))
            x.sub_(self.mean).div_(self.std)

        over_samples(make, batch, device)
        return views

    def _audio(
        self, waveform: Tensor, augment: AudioAugment, size: tuple[int, ...], draws: Mapping[str, Tensor]
    ) -> Tensor:
        """One audio view of every sample, (B, 1, mels, frames)."""
        device, (mels, frames) = waveform.device, size
        samples = torch.arange(min(self.clip.samples(frames), waveform.shape[1]), device=device)
        part = waveform.gather(1, draws["audio_start"].to(device)[:, None] + samples)
        view: Tensor = self.log_mel(part * draws["audio_volume"].to(device)[:, None])[..., :frames]
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


def _hull(boxes: Tensor) -> tuple[slice, slice]:
    """The rows and columns of pixels that some of the boxes (B, 4) cover; no others need be read."""
    first, last = boxes[:, :2].amin(0).tolist(), (boxes[:, :2] + boxes[:, 2:]).amax(0).tolist()
    return slice(first[0], last[0]), slice(first[1], last[1])


def _cut(frames: Tensor, rows: Tensor, columns: Tensor, start: Tensor, count: int) -> Tensor:
    """Choose `count` frames, crop, resize and flip: uint8 (B, T, 3, H, W) → float (B, 3, count, h, w)."""
    batch, total, _, height, width = frames.shape
    if count < total:
        sample = torch.arange(batch, device=frames.device)[:, None]
        frames = frames[sample, start.to(frames.device)[:, None] + torch.arange(count, device=frames.device)]
    # Height first and width last, so that each axis is one plain matrix product per sample.
    x = frames.permute(0, 3, 2, 1, 4).to(torch.float32, memory_format=torch.contiguous_format)
    x = torch.bmm(rows, x.view(batch, height, -1))
    x = torch.bmm(x.view(batch, -1, width), columns.transpose(-2, -1))
    return x.view(batch, rows.shape[1], 3, count, -1).permute(0, 2, 3, 1, 4)


def _blur(x: Tensor, sigma: Tensor, vertical: bool) -> Tensor:
    """Gaussian blur of (B, 3, T, H, W) with each sample's own sigma, or along the height alone."""
    rows, columns = (gaussian(sigma, _BLUR_KERNEL, size)[:, None, None] for size in x.shape[-2:])
    return rows @ (x if vertical else x @ columns.transpose(-2, -1))


def to_pixels(video: Tensor) -> Tensor:
    """Standardized video (B, 3, T, H, W) → pictures in [0, 1]."""
    mean, std = (torch.tensor(values, device=video.device).view(3, 1, 1, 1) for values in (_MEAN, _STD))
    return (video * std + mean).clamp_(0, 1)
