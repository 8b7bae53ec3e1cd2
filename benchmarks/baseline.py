"""A straightforward baseline from source video to views: PyAV by timestamps, PIL frame by frame, librosa.

Window, views and random parameters are those of xkd (Tables S1 and S2); one thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from xkd.config import Modality, PretrainConfig
from xkd.data.transforms.params import AudioParams, VideoParams

_PIXELS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LOG_MEL = -5.3688107, 4.410007
_FULL_SCALE = 32767.0

Picture = Image.Image
T = TypeVar("T")


class Baseline:
    """Reads windows of source files and makes their views; one method per stage."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    @cached_property
    def librosa(self) -> Any:
        """The library of the log-mel spectrograms, which reading does not need."""
        return importlib.import_module("librosa")

    def decode(self, path: Path, start: float, convert: Callable[[VideoFrame], T]) -> list[T]:
        """Return the frames displayed at the window's times; decoding starts at the preceding keyframe."""
        count = self.config.video.global_view[0]
        times = start + np.arange(count) / self.config.clip.fps
        pictures: list[T] = []
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            stream.codec_context.thread_count = 1
            file.seek(int(start / float(stream.time_base or 1)), stream=stream)
            shown = None
            for frame in file.decode(stream):
                while (
                    shown is not None and len(pictures) < count and (frame.time or 0.0) > times[len(pictures)]
                ):
                    pictures.append(convert(shown))
                if len(pictures) == count:
                    break
                shown = frame
            assert shown is not None
            pictures += [convert(shown)] * (count - len(pictures))
        return pictures

    def waveform(self, path: Path, start: float) -> NDArray[np.float32]:
        """Return the window's samples, mono, float32 (S,)."""
        clip = self.config.clip
        length = clip.window_samples
        resampler = av.AudioResampler(format="s16", layout="mono", rate=clip.sample_rate)
        chunks: list[NDArray[np.int16]] = []
        with av.open(str(path)) as file:
            stream = file.streams.audio[0]
            file.seek(int(start / float(stream.time_base or 1)), stream=stream)
            first: float | None = None
            for frame in file.decode(stream):
                first = (frame.time or 0.0) if first is None else first
                if (frame.time or 0.0) > start + clip.seconds + 0.1:
                    break
                chunks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        skip = round((start - (first or 0.0)) * clip.sample_rate)
        samples = np.concatenate(chunks)[max(0, skip) :][:length]
        return np.pad(samples, (0, length - len(samples))).astype(np.float32) / _FULL_SCALE

    def video_views(self, pictures: list[Picture], params: VideoParams) -> list[Tensor]:
        """Return the views (3, T, H, W): resize, then crop, flip, jitter, gray and blur frame by frame."""
        video = self.config.video
        small = [_short_side(picture, video.global_view[1]) for picture in pictures]
        views = []
        for number, size in enumerate([video.global_view] + [video.local_view] * video.local_views):
            one = VideoParams(*(values[number] for values in params))
            chosen = small[int(one.start) :][: size[0]]
            frames = [_augment(picture, (size[2], size[1]), one) for picture in chosen]
            pixels = np.stack([np.asarray(frame.convert("RGB"), np.float32) for frame in frames]) / 255
            mean, std = (np.array(values, np.float32) for values in _PIXELS)
            views.append(torch.from_numpy((pixels - mean) / std).permute(3, 0, 1, 2).contiguous())
        return views

    def cuts(self, waveform: NDArray[np.float32], params: AudioParams) -> list[NDArray[np.float32]]:
        """Return the samples of each audio view, scaled by its volume."""
        audio = self.config.audio
        sizes = [audio.global_view] + [audio.local_view] * audio.local_views
        lengths = [self.config.clip.samples(size[1]) for size in sizes]
        starts, volumes = params.start.tolist(), params.volume.numpy()
        return [
            waveform[start : start + length] * volume
            for start, length, volume in zip(starts, lengths, volumes, strict=True)
        ]

    def log_mel(self, samples: NDArray[np.float32]) -> Tensor:
        """Return the standardized log-mel spectrogram (1, mels, frames)."""
        clip, mels = self.config.clip, self.config.audio.global_view[0]
        power = self.librosa.feature.melspectrogram(
            y=samples,
            sr=clip.sample_rate,
            n_fft=clip.n_fft,
            hop_length=clip.hop,
            n_mels=mels,
            fmax=clip.f_max,
            pad_mode="reflect",
        )
        return torch.from_numpy((np.log(power + 1.1921e-7) - _LOG_MEL[0]) / _LOG_MEL[1])[None]

    def audio_views(self, spectrograms: list[Tensor], params: AudioParams) -> list[Tensor]:
        """Return the spectrograms, the local ones after their random crop."""
        views = spectrograms[:1]
        for spectrogram, box in zip(spectrograms[1:], params.box[1:], strict=True):
            frames = spectrogram.shape[-1]
            canvas = int(frames * self.config.views.audio_local.crop_canvas)
            margin = (canvas - frames) // 2
            top, left, height, width = box.tolist()
            padded = F.pad(spectrogram, (margin, canvas - frames - margin))
            cut = padded[None, :, top : top + height, left : left + width]
            views.append(F.interpolate(cut, spectrogram.shape[-2:], mode="bicubic", align_corners=True)[0])
        return views


def to_picture(frame: VideoFrame) -> Picture:
    """Return a frame as a picture of its own size."""
    return Image.fromarray(frame.reformat(format="rgb24", threads=1).to_ndarray())


def stack(samples: list[dict[Modality, list[Tensor]]]) -> dict[Modality, list[Tensor]]:
    """Return the samples' views as a batch."""
    return {
        m: [torch.stack(same) for same in zip(*(views[m] for views in samples), strict=True)]
        for m in samples[0]
    }


def _short_side(picture: Picture, side: int) -> Picture:
    scale = side / min(picture.size)
    width, height = (side if length == min(picture.size) else int(length * scale) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _augment(picture: Picture, size: tuple[int, int], params: VideoParams) -> Picture:
    top, left, height, width = params.box.tolist()
    picture = picture.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BILINEAR)
    if params.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for operation in params.order.tolist():
        picture = _JITTER[operation](picture, float(params.jitter[operation]))
    if params.gray:
        picture = picture.convert("L")
    if params.sigma:
        picture = picture.filter(ImageFilter.GaussianBlur(float(params.sigma)))
    return picture


def _shift_hue(picture: Picture, shift: float) -> Picture:
    hue, saturation, value = picture.convert("HSV").split()
    shifted = np.asarray(hue, np.uint8) + np.array(round(shift * 255) % 256, np.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


_JITTER: tuple[Callable[[Picture, float], Picture], ...] = (
    lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    _shift_hue,
)
"""In the order of `xkd.data.transforms.color.JITTER`."""
