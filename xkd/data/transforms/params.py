"""The random numbers behind a clip's views, and the recipes that say what to draw (Tables S1, S2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xkd.config import AudioAugment, FinetuneAudioConfig, FinetuneConfig, PretrainConfig, VideoAugment
from xkd.data.transforms.finetune import draw_masks

_BLUR_SIGMA = (0.1, 2.0)
"""Pixels; drawn anew for each view. (The authors' code takes the pair for sigma_x, sigma_y.)"""
_ASPECT = (3 / 4, 4 / 3)
_CROP_TRIES = 10
_AUDIO_STEP = 160
"""Starts of local audio views lie 1/160 s apart (100 samples at 16 kHz)."""

Draws = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The views to make of a clip: for each its augmentation and its size, the global view first."""

    video: tuple[tuple[VideoAugment, tuple[int, ...]], ...]
    audio: tuple[tuple[AudioAugment, tuple[int, ...]], ...]
    masks: FinetuneAudioConfig | None = None
    """How every spectrogram is warped and masked; None: it is not."""


def window_samples(config: PretrainConfig) -> int:
    """Audio samples of a window."""
    return round(config.clip.seconds * config.clip.sample_rate)


def pretrain_recipe(config: PretrainConfig) -> Recipe:
    """One global view and the local views of each modality (Tables S1 and S2, left)."""
    views, video, audio = config.views, config.video, config.audio
    return Recipe(
        video=((views.video_global, video.global_view),)
        + ((views.video_local, video.local_view),) * video.local_views,
        audio=((views.audio_global, audio.global_view),)
        + ((views.audio_local, audio.local_view),) * audio.local_views,
    )


def linear_recipe(config: PretrainConfig) -> Recipe:
    """The global view as augmented for linear evaluation (Tables S1 and S2, right)."""
    return Recipe(
        video=((VideoAugment(crop_area=(0.08, 1.0), gray=0.2), config.video.global_view),),
        audio=((AudioAugment(volume=0.1), config.audio.global_view),),
    )


def finetune_recipe(config: PretrainConfig, tuning: FinetuneConfig) -> Recipe:
    """The global view as augmented for fine-tuning (Tables S6 and S7), but for RandAugment."""
    video, audio = tuning.video, tuning.audio
    still = VideoAugment(
        crop_area=video.crop_area, flip=video.flip, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
    )
    loud = AudioAugment(volume=audio.volume, crop_range=audio.crop_range, crop_canvas=audio.crop_canvas)
    return Recipe(
        video=((still, config.video.global_view),), audio=((loud, config.audio.global_view),), masks=audio
    )


def draw(rng: np.random.Generator, recipe: Recipe, config: PretrainConfig, height: int, width: int) -> Draws:
    """All random numbers of one clip's views; row v of every array belongs to view v.

    Args:
        rng: where they come from.
        recipe: the views.
        config: sizes of the windows.
        height: of the clip's frames, pixels.
        width: of the clip's frames, pixels.

    Returns:
        ``video_start`` (first frame), ``video_box`` (top, left, height, width), ``video_flip``,
        ``video_jitter`` (factors of `color.JITTER`), ``video_order``, ``video_gray``, ``video_sigma``
        (0: no blur); ``audio_start`` (first sample), ``audio_volume``, ``audio_box`` (top, left,
        height, width in the crop's canvas), and where the recipe masks what `strong.draw_masks` returns.
    """
    video = [
        _draw_video(rng, augment, size, config.video.global_view[0], height, width)
        for augment, size in recipe.video
    ]
    audio = [_draw_audio(rng, augment, size, config) for augment, size in recipe.audio]
    if recipe.masks:
        for drawn, (_, (mels, frames)) in zip(audio, recipe.audio, strict=True):
            drawn |= draw_masks(rng, recipe.masks, mels, frames)
    return {name: np.stack([view[name] for view in views]) for views in (video, audio) for name in views[0]}


def _draw_video(
    rng: np.random.Generator,
    augment: VideoAugment,
    size: tuple[int, ...],
    frames: int,
    height: int,
    width: int,
) -> Draws:
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
    return {
        "video_start": np.array(rng.integers(frames - size[0] + 1)),
        "video_box": _draw_box(rng, augment.crop_area, height, width),
        "video_flip": np.array(rng.random() < augment.flip),
        "video_jitter": np.array([*factors, rng.uniform(-augment.hue, augment.hue)], np.float32),
        "video_order": rng.permutation(4),
        "video_gray": np.array(rng.random() < augment.gray),
        "video_sigma": np.array(_sigma(rng, augment) * (rng.random() < augment.blur), np.float32),
    }


def _sigma(rng: np.random.Generator, augment: VideoAugment) -> float:
    return _BLUR_SIGMA[1] if augment.blur_vertical else rng.uniform(*_BLUR_SIGMA)


def _draw_box(
    rng: np.random.Generator, area: tuple[float, float], height: int, width: int
) -> NDArray[np.int64]:
    """Multi-scale crop: area uniform, aspect log-uniform, ten tries, then the center (torchvision's rule)."""
    for _ in range(_CROP_TRIES):
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
) -> Draws:
    step = config.clip.sample_rate // _AUDIO_STEP
    spare = max(0, window_samples(config) - config.clip.samples(size[1]))
    mels, frames = size
    canvas = int(frames * augment.crop_canvas)
    box = [0, (canvas - frames) // 2, mels, frames]
    if augment.crop_range is not None:
        high = int(np.clip(int(rng.uniform(*augment.crop_range) * mels), 1, mels))
        wide = int(np.clip(int(rng.uniform(*augment.crop_range) * frames), 1, canvas))
        box = [int(rng.integers(mels - high + 1)), int(rng.integers(canvas - wide + 1)), high, wide]
    return {
        # Drawn for itself: nothing ties the sound of a local view to the frames of another.
        "audio_start": np.array(step * rng.integers(spare // step + 1)),
        "audio_volume": np.array(rng.uniform(1 - augment.volume, 1 + augment.volume), np.float32),
        "audio_box": np.array(box),
    }
