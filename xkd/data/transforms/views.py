"""Views: the augmented tensors that the networks see (Tables S1, S2; method notes, section 9).

All randomness is drawn beforehand, per clip (`xkd.data.transforms.params`); `Views` only computes, on whole
batches and on the device it is on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xkd.config import AudioAugment, Modality, PretrainConfig, VideoAugment
from xkd.data.transforms.color import jitter, to_gray
from xkd.data.transforms.finetune import mask_spectrogram
from xkd.data.transforms.logmel import LogMel
from xkd.data.transforms.params import AudioParams, Item, VideoParams, ViewSpecs
from xkd.data.transforms.resample import cubic, gaussian
from xkd.parallel.threads import over_samples

_PART_PIXELS = 2**16
"""Pixels that are processed together on a CPU: some 0.25 MB per channel."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Views(nn.Module):
    """Batches of windows to views, on the device this module is on.

    Args:
        config: sizes and the audio front end.
        specs: the views that `forward` makes; `plain` needs none.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PretrainConfig, specs: ViewSpecs | None = None) -> None:
        super().__init__()
        self.specs = specs or ViewSpecs()
        self.clip = config.clip
        self.log_mel = LogMel(config.clip, config.audio.global_view[0])
        self.register_buffer("mean", _per_channel(_MEAN), persistent=False)
        self.register_buffer("std", _per_channel(_STD), persistent=False)

    @torch.no_grad()
    def forward(self, batch: Item) -> dict[Modality, list[Tensor]]:
        """Return the augmented views of a batch per modality, in the order of the specs, standardized.

        Args:
            batch: ``frames``, ``waveform`` or both, on any device, and ``params`` on the CPU; or the
                ``views`` that a loader's worker made.

        Returns:
            video (B, 3, T, H, W), audio (B, 1, mels, frames).
        """
        if "views" in batch:
            return batch["views"]
        device, params = self.mean.device, batch["params"]
        views: dict[Modality, list[Tensor]] = {}
        if "frames" in batch:
            frames = batch["frames"].to(device, non_blocking=True)
            views["video"] = [
                self._video(frames, *spec, VideoParams(*(values[:, number] for values in params.video)))
                for number, spec in enumerate(self.specs.video)
            ]
        if "waveform" in batch:
            waveform = batch["waveform"].to(device, non_blocking=True)
            views["audio"] = [
                self._audio(waveform, *spec, AudioParams(*(values[:, number] for values in params.audio)))
                for number, spec in enumerate(self.specs.audio)
            ]
        return views

    @property
    def on_cpu(self) -> bool:
        """Whether the processor makes the views."""
        return self.mean.device.type == "cpu"

    def replace(self, batch: Item) -> Item:
        """Return a batch with its ``views`` in place of what they are made of."""
        kept: Item = {name: value for name, value in batch.items() if name in ("clip", "skipped")}  # type: ignore[assignment]
        return {**kept, "views": self(batch)}

    @torch.no_grad()
    def plain(self, batch: Item) -> dict[Modality, Tensor]:
        """Return the global views without augmentation.

        Args:
            batch: ``frames`` of the global view's size (see `center_crop`), ``waveform`` or both.
        """
        views: dict[Modality, Tensor] = {}
        if "frames" in batch:
            video = batch["frames"].to(self.mean.device, non_blocking=True).transpose(1, 2).float()
            views["video"] = video.div_(255).sub_(self.mean).div_(self.std)
        if "waveform" in batch:
            views["audio"] = self.log_mel(batch["waveform"].to(self.mean.device, non_blocking=True))
        return views

    def _video(
        self, frames: Tensor, augment: VideoAugment, size: tuple[int, ...], params: VideoParams
    ) -> Tensor:
        """Make one video view of every sample, (B, 3, T, H, W)."""
        device = frames.device
        starts, boxes, flips = params.start.tolist(), params.box.tolist(), params.flip.tolist()
        factors, order = params.jitter.tolist(), params.order.tolist()
        views = torch.empty(len(frames), 3, *size, device=device)

        def make(part: slice) -> None:
            samples = range(len(frames))[part]
            gray = params.gray[part].nonzero()[:, 0].to(device)
            blurred = params.sigma[part].nonzero()[:, 0].to(device)
            sigma = params.sigma[part].to(device)[blurred]
            for first, last in pairwise(_bounds(size, device)):
                x = torch.empty(len(samples), 3, last - first, *size[1:], device=device)
                for view, sample in zip(x, samples, strict=True):
                    window = frames[sample, starts[sample] + first : starts[sample] + last]
                    view.copy_(_cut(window, boxes[sample], size[1:], flips[sample]))
                x, white = jitter(x, factors[part], order[part], 255.0)
                if len(gray):
                    x[gray] = to_gray(x[gray]).expand(-1, 3, -1, -1, -1)
                if len(blurred):
                    x[blurred] = _blur(x[blurred], sigma, augment.blur_vertical)
                torch.sub(x, self.mean * white, out=views[part, :, first:last]).mul_(1 / (self.std * white))

        over_samples(make, len(frames), device)
        return views

    def _audio(
        self, waveform: Tensor, augment: AudioAugment, size: tuple[int, ...], params: AudioParams
    ) -> Tensor:
        """Make one audio view of every sample, (B, 1, mels, frames)."""
        device, (mels, frames) = waveform.device, size
        samples = torch.arange(min(self.clip.samples(frames), waveform.shape[1]), device=device)
        part = waveform.gather(1, params.start.to(device)[:, None] + samples)
        view: Tensor = self.log_mel(part * params.volume.to(device)[:, None])[..., :frames]
        if self.specs.masks:
            view = mask_spectrogram(view, params)
        if augment.crop_range is None:
            return view
        top, left, height, width = params.box.to(device).unbind(1)
        canvas = int(frames * augment.crop_canvas)
        margin = (canvas - frames) // 2
        rows = cubic(top, height, mels, mels)[:, None]
        # The canvas around the view is zero: its columns of the matrix need not be multiplied.
        columns = cubic(left, width, frames, canvas)[:, None, :, margin : margin + frames]
        return torch.matmul(rows @ view, columns.transpose(-2, -1))


def center_crop(frames: Tensor, height: int, width: int) -> Tensor:
    """Cut the center out of frames (..., H, W)."""
    top, left = (frames.shape[-2] - height) // 2, (frames.shape[-1] - width) // 2
    return frames[..., top : top + height, left : left + width]


def _cut(frames: Tensor, box: Sequence[int], size: tuple[int, ...], flip: bool) -> Tensor:
    """Crop, resize and flip the frames of one sample: uint8 (T, 3, H, W) to levels of 255 (3, T, *size)."""
    top, left, height, width = box
    crop = frames[..., top : top + height, left : left + width]
    if crop.is_cuda:  # CUDA has no kernel for bytes; PIL and the CPU kernel round
        resized = F.interpolate(crop.float(), size, mode="bilinear", antialias=True).round_()
    else:
        resized = F.interpolate(crop, size, mode="bilinear", antialias=True)
    return (resized.flip(-1) if flip else resized).transpose(0, 1)


def _bounds(size: tuple[int, ...], device: torch.device) -> list[int]:
    """Return the frames at which a view is divided; on a CPU, a part stays in the cache."""
    parts = max(1, round(math.prod(size) / _PART_PIXELS)) if device.type == "cpu" else 1
    return [size[0] * number // parts for number in range(parts + 1)]


def _blur(x: Tensor, sigma: Tensor, vertical: bool) -> Tensor:
    """Blur (B, 3, T, H, W) with a Gaussian per sample, along both axes or along the height alone."""
    rows, columns = (gaussian(sigma, 9, size)[:, None, None] for size in x.shape[-2:])
    return rows @ (x if vertical else x @ columns.transpose(-2, -1))


def to_pixels(video: Tensor) -> Tensor:
    """Return standardized video (B, 3, T, H, W) as pixels in [0, 1]."""
    mean, std = (_per_channel(values).to(video.device) for values in (_MEAN, _STD))
    return (video * std + mean).clamp_(0, 1)


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1, 1)
