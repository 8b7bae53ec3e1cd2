"""Decode a source file once, and encode it for random access."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, Protocol, TypeVar

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from xkd.data.media.clock import SECOND, to_ticks
from xkd.data.media.container import Content, open_container
from xkd.data.media.damage import Damage, MediaError, is_believable, is_heard
from xkd.data.media.decode import MediaFile
from xkd.data.media.edits import find_picture_delay
from xkd.data.media.picture import VideoWriter
from xkd.data.media.sound import SoundTrack
from xkd.data.media.timing import DisplayTimes, Shown

_SEGMENT_SLACK = 2 * SECOND
"""Ticks by which a file may be longer than a segment and still be that segment, not the whole video."""


Pictures = TypeVar("Pictures", covariant=True)


class PictureSink(Protocol[Pictures]):
    """What becomes of the pictures of a file."""

    def write(self, frame: VideoFrame, time: int) -> None:
        """Take the next picture, displayed from `time` on, ticks from the start of the clip."""

    def finish(self) -> Pictures | None:
        """Return what the pictures became; None if there were none."""

    def close(self) -> None:
        """Free what is held, also after an error."""


OpenSink = Callable[[MediaFile, Fraction], PictureSink[Pictures]]
"""Returns the sink for a file with this number of frames per second."""


@dataclass(frozen=True, kw_only=True)
class Transcoded(Generic[Pictures]):
    """What a source file becomes."""

    video: Pictures | None
    """Of `transcode`, an mp4 file (`VideoWriter`)."""
    audio: NDArray[np.int16] | None
    """Mono samples (S,), from the same moment on as the video; None: there is no sound."""
    seconds: float
    """Duration of the video, or of the sound where only that was read."""
    damage: Damage


def transcode(
    content: Content,
    *,
    with_video: bool,
    short_side: int,
    max_fps: float | None,
    sample_rate: int,
    segment: tuple[float, float] | None = None,
    exact: bool = False,
) -> Transcoded[bytes]:
    """Decode a source file once, and encode it for random access.

    Args:
        content: path or bytes of the file.
        with_video: whether to read the video, which then must be there, or only the sound.
        short_side: of the pictures, pixels; smaller ones are not enlarged.
        max_fps: of the frames in each 1/max_fps interval, the first is kept; None keeps all.
        sample_rate: of the sound, samples per second.
        segment: the part to read, (start, end) in seconds; a file that is no longer is read as a whole.
        exact: whether to cut the segment from any file.

    Raises:
        MediaError: the file cannot be decoded, or too little is left of it.
    """

    def open_sink(file: MediaFile, rate: Fraction) -> VideoWriter:
        return VideoWriter(short_side, file.pixel_aspect, rate)

    return decode(
        content,
        open_sink,
        with_video=with_video,
        max_fps=max_fps,
        sample_rate=sample_rate,
        segment=segment,
        exact=exact,
    )


def decode(
    content: Content,
    open_sink: OpenSink[Pictures],
    *,
    with_video: bool | None,
    max_fps: float | None,
    sample_rate: int,
    segment: tuple[float, float] | None = None,
    exact: bool = False,
) -> Transcoded[Pictures]:
    """Decode a source file once, in order, and give its pictures to a sink.

    Args:
        with_video: as of `MediaFile`; the others as of `transcode`.

    Raises:
        MediaError: see `transcode`.
    """
    with open_container(content) as container:
        file = MediaFile(container, with_video=with_video)
        file.delay_pictures(find_picture_delay(content, file.video))
        start, end = _bounds(file, segment, exact=exact)
        if start:
            file.seek(start)
        sound = SoundTrack(sample_rate, has_times=file.has_sound_times, length=file.length)
        with closing(_Video(file, open_sink, max_fps, start, end)) as video:
            for decoded in file.frames(end):
                if isinstance(decoded.frame, VideoFrame):
                    video.add(decoded.frame, decoded.time, decoded.duration)
                else:
                    sound.add(decoded.frame, decoded.time, decoded.duration)
            pictures = video.finish()
        samples = sound.samples(start, end)
        file.damage.reads += not sound.is_complete
    heard = to_ticks(len(samples), Fraction(1, sample_rate))
    has_video = file.video is not None
    duration = video.duration if has_video else heard
    if not duration:
        raise MediaError(f"no {'video frames' if has_video else 'audio samples'}")
    file.damage.check(duration, max(duration, heard), file.announced if end is None else None)
    return Transcoded(
        video=pictures,
        audio=samples if is_heard(heard) else None,
        seconds=duration / SECOND,
        damage=file.damage,
    )


def _bounds(file: MediaFile, segment: tuple[float, float] | None, *, exact: bool) -> tuple[int, int | None]:
    """Return the part of a file to read, ticks: a segment of a longer video, or all of it."""
    if segment is None:
        return 0, None
    start, end = (round(second * SECOND) for second in segment)
    # An estimate is good enough to tell a segment from a whole video.
    if not exact and 0 < (file.announced or file.length) <= end - start + _SEGMENT_SLACK:
        return 0, None
    return start, end


class _Video(Generic[Pictures]):
    """The frames between `start` and `end`, at most `max_fps`, in a sink; the first is displayed at 0."""

    def __init__(
        self,
        file: MediaFile,
        open_sink: OpenSink[Pictures],
        max_fps: float | None,
        start: int,
        end: int | None,
    ) -> None:
        rate = Fraction(25)
        if file.video is not None and file.video.average_rate:
            rate = file.video.average_rate
        self._step = round(SECOND / rate)
        self._start, self._limit = start, None if end is None else end - start
        self._max_fps = None if max_fps is None else Fraction(max_fps).limit_denominator(1000)
        self._file, self._times = file, DisplayTimes(self._step)
        rate = rate if self._max_fps is None else min(rate, self._max_fps)
        self._sink = open_sink(file, rate)
        self._before: VideoFrame | None = None
        self._slot = -1
        self._last, self._end, self._is_over = start, 0, False

    @property
    def duration(self) -> int:
        """Ticks until the last frame ends."""
        return self._end if self._limit is None else min(self._end, self._limit)

    def add(self, frame: VideoFrame, time: int | None, duration: int) -> None:
        """Add the next decoded frame."""
        for shown in self._times.add(frame, time, duration, sort=self._file.is_in_decoding_order):
            self._show(shown)

    def finish(self) -> Pictures | None:
        """Return what the sink made of the frames; None without frames."""
        for shown in self._times.finish():
            self._show(shown)
        if self._before is not None and self._end > 0:
            self._write(self._before, 0)
        return self._sink.finish()

    def close(self) -> None:
        """Free the sink."""
        self._sink.close()

    def _show(self, shown: Shown) -> None:
        time = shown.time - self._start
        if self._limit is not None and time >= self._limit:
            # The frame before it is displayed until the end.
            self._end = self._limit if self._end > 0 else 0
            return
        last, self._last = self._last, shown.time
        if self._is_over or not is_believable(last, shown.time, self._file.length):
            self._file.damage.reads += not self._is_over
            self._is_over = True
            return
        held = is_believable(shown.time, shown.time + shown.duration, self._file.length)
        self._end = max(0, time + (shown.duration * held or self._step))
        if time < 0:
            self._before = shown.frame
            return
        if self._before is not None and time > self._step // 2:
            # Displayed at the start, and for longer than a sliver.
            self._write(self._before, 0)
        self._before = None
        self._write(shown.frame, time)

    def _write(self, frame: VideoFrame, time: int) -> None:
        if self._max_fps is not None:
            # A time that was rounded down still belongs to the interval that it starts.
            slot = int(Fraction(time, SECOND) * self._max_fps + Fraction(1, 1000))
            if slot <= self._slot:
                return
            self._slot = slot
        self._sink.write(frame, time)
