"""Windows of media files for encoders, read directly: without shards, as if the files had been prepared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xkd.config import PretrainConfig
from xkd.data.media.container import Content
from xkd.data.media.picture import SHORT_SIDE
from xkd.data.media.prepared import to_waveform
from xkd.data.media.sampled import Picture, read_sampled
from xkd.data.transforms.params import Item
from xkd.data.transforms.resample import resize_short_side
from xkd.data.transforms.views import center_crop

_SHORTEST_SOUND = 0.1
"""Seconds of a window that its sound must reach into (`is_heard`), or the window has none."""


@dataclass(frozen=True, kw_only=True)
class MediaClip:
    """A media file, or a segment of one, at the frame rate, size and sample rate of an encoder's input."""

    pictures: NDArray[np.uint8] | None
    """(N, 3, H, W), one every 1/fps seconds; None: there is no video."""
    audio: NDArray[np.int16] | None
    """(S,); None: there is no sound."""
    seconds: float

    def starts(self, config: PretrainConfig) -> list[float]:
        """Return where windows start that cover the clip, seconds, multiples of 1/fps.

        They follow one another; what is left at the end, if it is half a window or more, is covered by
        another one that ends with the clip.
        """
        fps, length = config.clip.fps, round(config.clip.seconds * config.clip.fps)
        spare = max(0, int(self.seconds * fps + 1e-6) - length)
        frames = list(range(0, spare + 1, length))
        if spare - frames[-1] >= length / 2:
            frames.append(spare)
        return [frame / fps for frame in frames]

    def middle(self, config: PretrainConfig) -> float:
        """Return where the window in the middle of the clip starts, seconds, a multiple of 1/fps."""
        return int(max(0.0, self.seconds - config.clip.seconds) / 2 * config.clip.fps) / config.clip.fps

    def window(self, config: PretrainConfig, start: float) -> Item:
        """Return the ``frames`` and ``waveform`` of the window at `start`, seconds, as far as there are any.

        As in `WindowReader`, the last picture is repeated and silence added where the clip ends early.
        """
        item, clip = Item(), config.clip
        if self.pictures is not None:
            places = round(start * clip.fps) + np.arange(config.video.global_view[0])
            item["frames"] = torch.from_numpy(self.pictures[np.minimum(places, len(self.pictures) - 1)])
        if self.audio is not None:
            samples = self.audio[round(start * clip.sample_rate) :]
            if len(samples) >= _SHORTEST_SOUND * clip.sample_rate:
                waveform = to_waveform(samples[: clip.window_samples].tobytes(), clip.window_samples)
                item["waveform"] = torch.from_numpy(waveform)
        return item


def read_media(
    content: Content, config: PretrainConfig, segment: tuple[float, float] | None = None
) -> tuple[MediaClip, str]:
    """Read a media file, or a segment of it, (start, end) in seconds; return also what of it is damaged.

    Pictures are scaled as `prepare` does by default, then as a reader of windows does.

    Raises:
        MediaError: the file cannot be decoded, or too little is left of it.
    """
    _, height, width = config.video.global_view
    found = read_sampled(
        content,
        fps=config.clip.fps,
        short_side=max(height, SHORT_SIDE),
        sample_rate=config.clip.sample_rate,
        change=partial(_fit, height=height, width=width),
        segment=segment,
    )
    pictures = None if found.pictures is None else np.stack(found.pictures)
    return MediaClip(pictures=pictures, audio=found.audio, seconds=found.seconds), str(found.damage)


def _fit(picture: Picture, height: int, width: int) -> Picture:
    """Return the center of a picture (H, W, 3) as (3, height, width)."""
    frame: Tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
    fitted: Picture = center_crop(resize_short_side(frame, height), height, width)[0].contiguous().numpy()
    return fitted
