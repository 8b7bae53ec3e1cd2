"""Sound on the clock of its file: gaps become silence, overlaps are cut."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from statistics import median_low

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from xkd.data.media.clock import SECOND, to_count, to_ticks
from xkd.data.media.damage import is_believable

_AHEAD = 5
"""Frames that must agree on a gap or an overlap: one time alone may be imprecise."""
_TOLERANCE = SECOND * 4 // 1000
"""Ticks by which times may differ from the count of samples, as rounded and jittering times do."""
_TOLERANCE_AVI = SECOND // 10
"""The same for AVI, which stores no times: FFmpeg's are those of the chunk that a frame begins in."""


class SoundTrack:
    """Mono sound at one sample rate, from decoded frames of any format and their times.

    A part is what frames of one format make up without a gap; each is resampled for itself.

    Args:
        sample_rate: samples per second.
        has_times: whether the file stores times of the sound.
        length: duration of the file, ticks; 0: unknown (`is_believable`).
    """

    def __init__(self, sample_rate: int, *, has_times: bool, length: int) -> None:
        self._rate, self._length = sample_rate, length
        self._tolerance = _TOLERANCE if has_times else _TOLERANCE_AVI
        self.is_complete = True
        """False after `samples` left out what lies behind an impossible time."""
        self._waiting: deque[tuple[AudioFrame | None, int | None, int]] = deque()
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None
        self._parts: list[tuple[int, list[NDArray[np.int16]]]] = []
        """Where each part starts, ticks, and its samples."""
        self._start, self._count = 0, 0
        """Of the last part: where it starts, and the number of its frames' samples."""

    def add(self, frame: AudioFrame | None, time: int | None, duration: int) -> None:
        """Add the next frame and its time, ticks; None: unknown.

        A frame of None stands for sound that could not be decoded, of this duration, ticks.
        """
        if frame is not None:
            duration = to_ticks(frame.samples, Fraction(1, frame.sample_rate))
        self._waiting.append((frame, time, duration))
        if len(self._waiting) == _AHEAD:
            self._place()

    def samples(self, start: int, end: int | None) -> NDArray[np.int16]:
        """Return the samples (S,) from `start` to `end`, ticks, or to the end of the sound."""
        while self._waiting:
            self._place()
        self._flush()
        parts, last = [], start
        for begin, chunks in self._parts:
            if not is_believable(last, begin, self._length):
                self.is_complete = False
                break
            samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
            parts.append((to_count(begin - start, self._rate), samples))
            last = begin + to_ticks(len(samples), Fraction(1, self._rate))
        length = max((at + len(samples) for at, samples in parts), default=0)
        if end is not None:
            length = min(length, to_count(end - start, self._rate))
        sound, done = np.zeros(max(0, length), np.int16), 0
        for at, samples in parts:
            # Where parts overlap, the earlier one is kept.
            samples = samples[max(0, done - at) :][: max(0, length - max(at, done))]
            if len(samples):
                done = max(at, done) + len(samples)
                sound[done - len(samples) : done] = samples
        return sound

    def _place(self) -> None:
        """Append the next frame where the sound ends, or start a part where the times say so."""
        frame, time, duration = self._waiting[0]
        if frame is None:
            self._flush()
            self._start, self._count = self._end() + duration, 0
        else:
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
            late = time is not None and abs(time - self._end()) > self._tolerance
            if late or form != self._format or self._resampler is None:
                self._start_part(form)
            self._count += frame.samples
            frame.pts = None  # the resampler counts samples by itself
            self._resample(frame)
        self._waiting.popleft()

    def _start_part(self, form: tuple[str, str, int]) -> None:
        """Start a part at the time that the next frames agree on, if it is not the end of the last part."""
        expected, apart = self._end(), []
        for _, time, duration in self._waiting:
            if time is not None:
                apart.append(time - expected)
            expected += duration
        jumps = bool(apart) and (min(apart) > self._tolerance or max(apart) < -self._tolerance)
        if form == self._format and not jumps and self._resampler is not None:
            return
        self._flush()
        moved = median_low(apart) if apart and (jumps or form != self._format) else 0
        self._start, self._count = self._end() + moved, 0
        self._parts.append((self._start, []))
        self._format = form
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=self._rate)

    def _end(self) -> int:
        """Return where the sound so far ends, ticks."""
        rate = self._format[2] if self._format is not None else self._rate
        return self._start + to_ticks(self._count, Fraction(1, rate))

    def _flush(self) -> None:
        """Finish the last part."""
        if self._resampler is not None:
            self._resample(None)
        self._resampler = None

    def _resample(self, frame: AudioFrame | None) -> None:
        assert self._resampler is not None
        self._parts[-1][1].extend(part.to_ndarray()[0] for part in self._resampler.resample(frame))
