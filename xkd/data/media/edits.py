"""Where FFmpeg displays the pictures of an mp4 too early or too late."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

from av.video.stream import VideoStream

from xkd.data.media.clock import SECOND, to_ticks
from xkd.data.media.container import Content, open_container

_LONGEST = SECOND
"""Ticks that a picture lasts, at most, for a difference to be that of a cut between two pictures."""


def find_picture_delay(content: Content, video: VideoStream | None) -> int:
    """Return by how many ticks pictures are displayed later than FFmpeg says; negative: earlier."""
    if video is None or video.time_base is None or not video.container.format.name.startswith("mov"):
        return 0
    # A copy: FFmpeg relies on the place up to which it has read.
    data = io.BytesIO(content.getvalue()) if isinstance(content, io.BytesIO) else content.open("rb")
    with data:
        late = _find_composition_shift(data, video.id)
    moved = to_ticks(_find_cut(content, video), video.time_base)
    return (moved if 0 < moved < _LONGEST else 0) - to_ticks(late, video.time_base)


def _find_cut(content: Content, video: VideoStream) -> int:
    """Return by how much pictures are displayed too early, in the time base of the stream.

    Where an edit begins while a picture is displayed, FFmpeg drops that picture and moves the next one to the
    beginning, and with it all others, but not the sound. It does not where it is told to cut nothing.
    """
    first = next((entry for entry in video.index_entries if not entry.is_discard), None)
    if first is None or not any(entry.is_discard for entry in video.index_entries):
        return 0
    copy = io.BytesIO(content.getvalue()) if isinstance(content, io.BytesIO) else content
    with open_container(copy, advanced_editlist="0") as uncut:
        times = {entry.pos: entry.timestamp for entry in uncut.streams[video.index].index_entries}
    return times.get(first.pos, first.timestamp) - first.timestamp


def _find_composition_shift(data: BinaryIO, track: int) -> int:
    """Return by how much pictures are displayed too late, in the time base of the track.

    The composition offsets of fragments may be negative, as for HLS and DASH. FFmpeg then moves the pictures
    by the largest, but not the sound; in a file without fragments, it moves the times of decoding.
    """
    for kind, start, end in _boxes(data, 0, data.seek(0, io.SEEK_END)):
        if kind == b"moof":
            runs = (
                _read_offsets(data, place)
                for name, first, last in _boxes(data, start, end)
                if name == b"traf" and _is_of(data, first, last, track)
                for inner, place, _ in _boxes(data, first, last)
                if inner == b"trun"
            )
            return -min((offset for run in runs for offset in run), default=0)
    return 0


def _boxes(data: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes between two places: the kind of each, and where its content starts and ends."""
    while start + 8 <= end:
        data.seek(start)
        header = data.read(16)
        size, kind = struct.unpack_from(">I4s", header)
        content = start + 8
        if size == 1 and len(header) == 16:
            (size,), content = struct.unpack_from(">Q", header, 8), start + 16
        if size < content - start:
            return
        yield kind, content, min(start + size, end)
        start += size


def _is_of(data: BinaryIO, start: int, end: int, track: int) -> bool:
    """Return whether a fragment is one of a track."""
    for kind, place, _ in _boxes(data, start, end):
        if kind == b"tfhd":
            data.seek(place + 4)
            return data.read(4) == track.to_bytes(4, "big")
    return False


def _read_offsets(data: BinaryIO, place: int) -> list[int]:
    """Return the composition offsets of a run of samples, and 0."""
    data.seek(place)
    flags, count = struct.unpack(">II", data.read(8).ljust(8, b"\0"))
    fields = [flag for flag in (0x100, 0x200, 0x400, 0x800) if flags & flag]
    if 0x800 not in fields:
        return [0]
    data.seek(4 * bool(flags & 0x1) + 4 * bool(flags & 0x4), io.SEEK_CUR)
    samples = data.read(4 * len(fields) * min(count, 100_000))
    whole = len(samples) // (4 * len(fields)) * len(fields)
    return [0, *struct.unpack(f">{whole}i", samples[: 4 * whole])[len(fields) - 1 :: len(fields)]]
