"""The random parameters of a clip's views, and what to draw for each view (Tables S1, S2, S6, S7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xkd.config import (
    AudioAugment,
    FinetuneAudioConfig,
    FinetuneConfig,
    Modality,
    PretrainConfig,
    VideoAugment,
)

_BLUR_SIGMA = (0.1, 2.0)
"""Pixels; drawn per view. (The authors' code takes the pair for sigma_x, sigma_y.)"""
_ASPECT = (3 / 4, 4 / 3)


class VideoParams(NamedTuple):
    """Random parameters of the V video views of a clip; those of a batch have a leading axis."""

    start: Tensor
    """First frame, (V,)."""
    box: Tensor
    """Crop: top, left, height, width in pixels, (V, 4)."""
    flip: Tensor
    """Whether to mirror the frames, (V,)."""
    jitter: Tensor
    """Factors of the operations of `xkd.data.transforms.color.jitter`, (V, 4)."""
    order: Tensor
    """Order of these operations, (V, 4)."""
    gray: Tensor
    """Whether to drop the color, (V,)."""
    sigma: Tensor
    """Standard deviation of the blur in pixels, 0 for none, (V,)."""


class AudioParams(NamedTuple):
    """Random parameters of the V audio views of a clip; those of a batch have a leading axis."""

    start: Tensor
    """First sample, (V,)."""
    volume: Tensor
    """Gain, (V,)."""
    box: Tensor
    """Crop: top, left, height, width in bins of the canvas, (V, 4)."""
    warp: Tensor
    """Time warp: a spectrogram frame, and its shift in frames, (V, 2)."""
    mel_masks: Tensor
    """Masked frequency bands: first bin, bins, (V, masks, 2)."""
    time_masks: Tensor
    """Masked spans of time: first spectrogram frame, frames, (V, masks, 2)."""


class ClipParams(NamedTuple):
    """Random parameters of a clip's views."""

    video: VideoParams
    audio: AudioParams


class Item(TypedDict, total=False):
    """A window of a clip; a batch of windows has a leading axis (B,) in every tensor."""

    frames: Tensor
    """uint8 (T, 3, H, W)."""
    waveform: Tensor
    """float32 in [-1, 1], (S,)."""
    params: ClipParams
    """For random views; absent where the views are plain."""
    views: dict[Modality, list[Tensor]]
    """In place of frames, waveform and params, where a loader's workers make the views."""
    clip: Tensor
    """Index of the clip, ()."""
    skipped: Tensor
    """Unreadable clips that were tried before this one, ()."""


@dataclass(frozen=True, kw_only=True)
class ViewSpecs:
    """The views of a clip: augmentation and size of each, the global view first."""

    video: tuple[tuple[VideoAugment, tuple[int, ...]], ...] = ()
    audio: tuple[tuple[AudioAugment, tuple[int, ...]], ...] = ()
    masks: FinetuneAudioConfig | None = None
    """Warp and masks of every spectrogram; None for neither."""


def pretrain_views(config: PretrainConfig) -> ViewSpecs:
    """Return one global view and the local views of each modality (Tables S1 and S2, left)."""
    views, video, audio = config.views, config.video, config.audio
    return ViewSpecs(
        video=((views.video_global, video.global_view),)
        + ((views.video_local, video.local_view),) * video.local_views,
        audio=((views.audio_global, audio.global_view),)
        + ((views.audio_local, audio.local_view),) * audio.local_views,
    )


def linear_views(config: PretrainConfig) -> ViewSpecs:
    """Return the global view as augmented for linear evaluation (Tables S1 and S2, right)."""
    return ViewSpecs(
        video=((VideoAugment(crop_area=(0.08, 1.0), gray=0.2), config.video.global_view),),
        audio=((AudioAugment(volume=0.1), config.audio.global_view),),
    )


def finetune_views(config: PretrainConfig, tuning: FinetuneConfig) -> ViewSpecs:
    """Return the global view as augmented for fine-tuning (Tables S6 and S7), without RandAugment."""
    video, audio = tuning.video, tuning.audio
    crop = VideoAugment(
        crop_area=video.crop_area, flip=video.flip, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
    )
    sound = AudioAugment(volume=audio.volume, crop_range=audio.crop_range, crop_canvas=audio.crop_canvas)
    return ViewSpecs(
        video=((crop, config.video.global_view),), audio=((sound, config.audio.global_view),), masks=audio
    )


def with_params(item: Item, rng: np.random.Generator, specs: ViewSpecs, config: PretrainConfig) -> Item:
    """Return an item with the random parameters of its views."""
    height, width = item["frames"].shape[-2:] if "frames" in item else config.video.global_view[1:]
    return {**item, "params": draw_params(rng, specs, config, height, width)}


def draw_params(
    rng: np.random.Generator, specs: ViewSpecs, config: PretrainConfig, height: int, width: int
) -> ClipParams:
    """Draw the random parameters of one clip's views.

    Runs are reproducible only while the order of the draws stays: a test records it. `height` and `width`
    are of the clip's frames, in pixels.
    """
    window = (config.video.global_view[0], height, width)
    video = [_draw_video(rng, augment, size, window) for augment, size in specs.video]
    audio = [_draw_audio(rng, augment, size, config) for augment, size in specs.audio]
    # After the views, not with each: the order of the draws.
    masks = [_draw_masks(rng, specs.masks, *size) for _, size in specs.audio]
    of_audio = [*zip(*audio, strict=True), *zip(*masks, strict=True)]
    return ClipParams(
        VideoParams(*(torch.from_numpy(np.stack(values)) for values in zip(*video, strict=True))),
        AudioParams(*(torch.from_numpy(np.stack(values)) for values in of_audio)),
    )


def _draw_video(
    rng: np.random.Generator, augment: VideoAugment, size: tuple[int, ...], window: tuple[int, int, int]
) -> tuple[Any, ...]:
    """Return the fields of `VideoParams` for one view."""
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
    start = rng.integers(window[0] - size[0] + 1)
    box = _draw_box(rng, augment.crop_area, *window[1:])
    flip = rng.random() < augment.flip
    jitter = np.array([*factors, rng.uniform(-augment.hue, augment.hue)], np.float32)
    order = rng.permutation(4)
    gray = rng.random() < augment.gray
    sigma = _BLUR_SIGMA[1] if augment.blur_vertical else rng.uniform(*_BLUR_SIGMA)
    return start, box, flip, jitter, order, gray, np.float32(sigma * (rng.random() < augment.blur))


def _draw_box(
    rng: np.random.Generator, area: tuple[float, float], height: int, width: int
) -> NDArray[np.int64]:
    """Draw a crop: area uniform, aspect log-uniform, ten tries, then the center (torchvision's rule)."""
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        box_width, box_height = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return np.array([top, left, box_height, box_width])
    box_width = min(width, round(height * _ASPECT[1]))
    box_height = min(height, round(width / _ASPECT[0]))
    return np.array([(height - box_height) // 2, (width - box_width) // 2, box_height, box_width])


def _draw_audio(
    rng: np.random.Generator, augment: AudioAugment, size: tuple[int, ...], config: PretrainConfig
) -> tuple[Any, ...]:
    """Return the first fields of `AudioParams` for one view."""
    step = config.clip.sample_rate // 160  # local views start at multiples of 1/160 s
    spare = max(0, config.clip.window_samples - config.clip.samples(size[1]))
    mels, frames = size
    canvas = int(frames * augment.crop_canvas)
    box = [0, (canvas - frames) // 2, mels, frames]
    if augment.crop_range is not None:
        high = int(np.clip(int(rng.uniform(*augment.crop_range) * mels), 1, mels))
        wide = int(np.clip(int(rng.uniform(*augment.crop_range) * frames), 1, canvas))
        box = [int(rng.integers(mels - high + 1)), int(rng.integers(canvas - wide + 1)), high, wide]
    # Independent of the video: local views of the two modalities need not show the same time.
    start = step * rng.integers(spare // step + 1)
    return start, np.float32(rng.uniform(1 - augment.volume, 1 + augment.volume)), np.array(box)


def _draw_masks(
    rng: np.random.Generator, config: FinetuneAudioConfig | None, mels: int, frames: int
) -> tuple[NDArray[np.int64], ...]:
    """Return the last fields of `AudioParams` for one view: no warp and no masks without a config."""
    none = np.zeros((0, 2), np.int64)
    if config is None:
        return np.zeros(2, np.int64), none, none
    # The parts before and after the frame must not vanish in a short spectrogram.
    reach = min(config.warp, (frames - 1) // 4)
    warp = np.array([int(rng.integers(reach + 1, frames - reach)), rng.integers(-reach, reach + 1)])
    masks = []
    for size, longest in ((mels, config.frequency_mask), (frames, config.time_mask)):
        lengths = rng.integers(0, min(longest, size) + 1, config.masks)
        starts = [int(rng.integers(size - length + 1)) for length in lengths]
        masks.append(np.stack([np.array(starts, np.int64), lengths], axis=1))
    return warp, *masks
