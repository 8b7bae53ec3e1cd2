"""The clock of a clip: integers, so that times neither tie by rounding nor drift."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from av.packet import Packet
from av.stream import Stream

SECOND = 705_600_000
"""Ticks per second: whole numbers of them make up a frame or a sample at any usual rate, also 24000/1001."""


_STEP_BACK, _STEP_AHEAD = SECOND, 10 * SECOND
"""Ticks by which a clock jumps back within a stream, or ahead of all streams, where it restarts."""
_LATEST = 10 * 365 * 86_400 * SECOND
"""Ticks beyond which no clock is: such a time is damaged, or a muxer's overflow."""
_THEORA_WRAP = 1 << 58
"""Added to negative times of Theora, as of pictures before a cut, where FFmpeg writes and reads them."""
_CHUNK_HEADER = 8
"""Bytes between the place of a chunk, as an AVI's index has it, and of its content."""


def to_ticks(count: int, unit: Fraction) -> int:
    """Return `count` units, each a number of seconds, in ticks, rounded."""
    return (2 * count * unit.numerator * SECOND + unit.denominator) // (2 * unit.denominator)


def to_count(ticks: int, rate: int) -> int:
    """Return the number of samples or other ticks at `rate` per second, rounded."""
    return (2 * ticks * rate + SECOND) // (2 * SECOND)


class RestartingClock:
    """The clock of a file of joined recordings: it continues where theirs restart."""

    def __init__(self) -> None:
        self._offsets = [0]
        """Ticks to add to the clock of each recording."""
        self._recordings: dict[int, int] = {}
        """By stream: the recording that it has reached; those of one recording end at different places."""
        self._ends: dict[int, int] = {}

    def correct(self, packet: Packet[Any]) -> int:
        """Move a packet's times behind what was read before if the file's clock restarts there; return 0."""
        if packet.dts is None:
            return 0
        stream, base = packet.stream_index, packet.time_base
        stored, recording = to_ticks(packet.dts, base), self._recordings.get(packet.stream_index, 0)
        latest = max(self._ends.values(), default=stored)
        end, back = self._ends.get(stream, latest), _STEP_BACK if stream in self._ends else _STEP_AHEAD
        if abs(stored + self._offsets[recording] - end) > back:
            # It has followed another stream to another recording, or one time was damaged, or begins another.
            near = [n for n, offset in enumerate(self._offsets) if abs(stored + offset - end) <= back]
            if near:
                recording = near[-1]
            elif not end - back <= stored + self._offsets[recording] <= latest + _STEP_AHEAD:
                recording = len(self._offsets)
                self._offsets.append(latest - stored)
        offset = self._offsets[recording]
        self._recordings[stream] = recording
        self._ends[stream] = stored + offset + to_ticks(packet.duration or 0, base)
        _move(packet, round(offset / (base * SECOND)))
        return 0


class IndexClock:
    """The clock of AVI, where times are counts of chunks: its index counts those that damage hides too."""

    def __init__(self, streams: Iterable[Stream]) -> None:
        self._chunks: dict[tuple[int, int], tuple[int, int]] = {}
        """By stream and place: the number of a chunk, and its time in the units of its stream."""
        self._read: dict[int, tuple[int, int]] = {}
        """By stream: the number of the last chunk, and by how much its time was moved."""
        for stream in streams:
            entries = list(stream.index_entries)
            unit = Fraction(1)
            if len(entries) > 1 and entries[1].timestamp == entries[0].size > 1:
                # Sound that is counted in bytes.
                unit = Fraction(stream.frames, entries[-1].timestamp + entries[-1].size)
            for number, entry in enumerate(entries):
                place = (stream.index, entry.pos + _CHUNK_HEADER)
                self._chunks[place] = number, round(entry.timestamp * unit)

    def correct(self, packet: Packet[Any]) -> int:
        """Move a packet's times to those of the index; return the ticks that were lost before it."""
        if packet.dts is None:
            return 0
        last, offset = self._read.get(packet.stream_index, (-1, 0))
        number, time = self._chunks.get((packet.stream_index, packet.pos or 0), (last, 0))
        lost = max(0, time - packet.dts - offset) if number > last + 1 else 0
        self._read[packet.stream_index] = number, offset + lost
        _move(packet, offset + lost)
        return to_ticks(lost, packet.time_base)


def is_possible(ticks: int) -> bool:
    """Return whether a file's clock can have this time."""
    return abs(ticks) <= _LATEST


def correct_impossible_times(packet: Packet[Any]) -> None:
    """Correct the times of a packet that no clock can have, or remove them."""
    for name in ("pts", "dts"):
        count = getattr(packet, name)
        if count is not None and not is_possible(to_ticks(count, packet.time_base)):
            before = count - _THEORA_WRAP
            setattr(packet, name, before if is_possible(to_ticks(before, packet.time_base)) else None)


def _move(packet: Packet[Any], offset: int) -> None:
    if packet.dts is not None:
        packet.dts += offset
    packet.pts = None if packet.pts is None else packet.pts + offset
