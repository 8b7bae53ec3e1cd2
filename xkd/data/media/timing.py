"""Times at which frames are displayed: exact, strictly rising, and without drift."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from av.video.frame import VideoFrame

_REORDERED = 16
"""Frames by which decoding runs ahead of display, at most, in any codec."""
_AHEAD = 4
"""Frames whose times tell whether a frame's own time can be right."""


@dataclass(frozen=True)
class Shown:
    """A frame and when it is displayed."""

    frame: VideoFrame
    time: int
    """Ticks from the start of the file's clock."""
    duration: int
    """Ticks, as the file says; 0: it does not say."""


class DisplayTimes:
    """Give each frame, in the order of display, its time.

    Times that do not rise, or are missing, are interpolated between those that rise.

    Args:
        step: usual distance of two frames, ticks.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._frames: deque[tuple[VideoFrame, int]] = deque()
        self._decoded: list[int] = []
        self._times: deque[int | None] = deque()
        self._last: int | None = None

    def add(self, frame: VideoFrame, time: int | None, duration: int, *, sort: bool) -> Iterator[Shown]:
        """Add the next frame; yield those whose times are now certain.

        Args:
            frame: a decoded frame.
            time: its time, ticks; None: unknown.
            duration: ticks, as the file says; 0: unknown.
            sort: the times are those of decoding: the n-th frame displayed has the n-th of them. FFmpeg's own
                guess is late by the decoder's delay, which packed B-frames do not have.
        """
        self._frames.append((frame, duration))
        if sort and time is not None:
            heapq.heappush(self._decoded, time)
            if len(self._decoded) > _REORDERED:
                self._times.append(heapq.heappop(self._decoded))
        else:
            self._release()
            self._times.append(time)
        while len(self._times) > _AHEAD:
            yield self._next()

    def finish(self) -> Iterator[Shown]:
        """Yield the remaining frames."""
        self._release()
        while self._frames:
            yield self._next()

    def _release(self) -> None:
        self._times.extend(sorted(self._decoded))
        self._decoded.clear()

    def _next(self) -> Shown:
        time, following = self._times[0], self._times[1] if len(self._times) > 1 else None
        if time is None or (self._last is not None and time <= self._last) or (following or time) < time:
            time = self._interpolate()
        self._times.popleft()
        self._last = time
        return Shown(self._frames[0][0], time, self._frames.popleft()[1])

    def _interpolate(self) -> int:
        """Return the time of the next frame by those that rise after it, or its own if it is among these."""
        good = rising(self._times, self._last)
        if not good:
            return 0 if self._last is None else self._last + self._step
        index, time = good[0]
        if index == 0:
            return time
        if self._last is None:
            return max(time - index * self._step, min(time, 0))
        return self._last + min(self._step, (time - self._last) // (index + 1))


def rising(times: Sequence[int | None], after: int | None) -> list[tuple[int, int]]:
    """Return the longest strictly rising selection of the times beyond `after`, as (index, time)."""
    found: list[list[tuple[int, int]]] = []
    for index, time in enumerate(times):
        if time is not None and (after is None or time > after):
            shorter = (selection for selection in found if selection[-1][1] < time)
            found.append([*max(shorter, key=len, default=[]), (index, time)])
    return max(found, key=len, default=[])
