"""Source files read at a fixed frame rate, without preparing them: the same pictures but for x264's loss."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from xkd.data.media.clock import to_count
from xkd.data.media.container import Content
from xkd.data.media.damage import Damage
from xkd.data.media.decode import MediaFile
from xkd.data.media.picture import TICKS, PictureScaler
from xkd.data.media.transcode import decode

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The pictures and the sound of a file, or of a segment of it."""

    pictures: list[Picture] | None
    """One every 1/fps seconds from the start on; None: there is no video."""
    audio: NDArray[np.int16] | None
    """Mono samples (S,); None: there is no sound."""
    seconds: float
    """Duration of the video, or of the sound where there is no video."""
    damage: Damage


def read_sampled(
    content: Content,
    *,
    fps: int,
    short_side: int,
    sample_rate: int,
    change: Callable[[Picture], Picture],
    segment: tuple[float, float] | None = None,
) -> Sampled:
    """Read a source file as `prepare` and then `read_video` would at multiples of 1/fps.

    Args:
        content: the file.
        fps: pictures per second.
        short_side: as of `transcode`, as are `sample_rate` and `segment`.
        change: applied to each picture at once, so that large pictures need not be held.

    Raises:
        MediaError: the file cannot be decoded, or too little is left of it.
    """

    def open_sink(file: MediaFile, _: Fraction) -> _Sampler:
        return _Sampler(PictureScaler(short_side, file.pixel_aspect), fps, change)

    found = decode(
        content,
        open_sink,
        with_video=None,
        max_fps=None,
        sample_rate=sample_rate,
        segment=segment,
        exact=True,
    )
    pictures = None if found.video is None else found.video.until(found.seconds)
    return Sampled(pictures=pictures, audio=found.audio, seconds=found.seconds, damage=found.damage)


class _Sampler:
    """Keeps the picture that is displayed at each multiple of 1/fps."""

    def __init__(self, scaler: PictureScaler, fps: int, change: Callable[[Picture], Picture]) -> None:
        self._scaler, self._fps, self._change = scaler, fps, change
        self._reformatter = VideoReformatter()
        self._pictures: list[Picture] = []
        self._shown: VideoFrame | None = None
        self._pts = -1

    def write(self, frame: VideoFrame, time: int) -> None:
        """Take the next picture; the one before it is displayed until then."""
        pts = max(self._pts + 1, to_count(time, TICKS))  # as in the mp4 of `VideoWriter`
        self._keep(pts)
        self._shown, self._pts = frame, pts

    def finish(self) -> _Sampler | None:
        """Return this object, for `until`; the duration is not known yet."""
        return self if self._shown is not None else None

    def until(self, seconds: float) -> list[Picture]:
        """Return the pictures of a clip of this duration; the last one is displayed to its end."""
        self._keep(round(seconds * TICKS))
        return self._pictures

    def close(self) -> None:
        """Free the decoder (`VideoWriter.close`)."""
        gc.collect()

    def _keep(self, end: int) -> None:
        """Keep the present picture for the moments before `end`, a count of `TICKS`."""
        picture: Picture | None = None
        # A picture's stored start may round to just after the moment, as in `read_video`.
        while int(len(self._pictures) / self._fps * TICKS + 0.5) < end:
            if self._shown is None:  # before the first picture, that one is displayed
                return
            if picture is None:
                small = self._scaler.scale(self._shown)
                # One thread: starting more takes longer than such a small picture.
                rgb: Any = self._reformatter.reformat(small, format="rgb24", threads=1).to_ndarray()
                picture = self._change(rgb)
            self._pictures.append(picture)
