"""Edit lists of mp4, as where a video was cut without encoding it again."""

from __future__ import annotations

import io

from av.video.stream import VideoStream

from xkd.data.media.clock import SECOND, to_ticks
from xkd.data.media.container import Content, open_container

_LONGEST = SECOND
"""Ticks that a picture lasts, at most, for a difference to be that of a cut between two pictures."""


def find_picture_delay(content: Content, video: VideoStream | None) -> int:
    """Return by how many ticks FFmpeg displays the pictures of a file too early.

    Where an edit begins while a picture is displayed, FFmpeg drops that picture and moves the next one to the
    beginning, and with it all others, but not the sound. It does not where it is told to cut nothing.
    """
    if video is None or not any(entry.is_discard for entry in video.index_entries):
        return 0
    copy = io.BytesIO(content.getvalue()) if isinstance(content, io.BytesIO) else content
    with open_container(copy, advanced_editlist="0") as uncut:
        times = {entry.pos: entry.timestamp for entry in uncut.streams[video.index].index_entries}
    first = next((entry for entry in video.index_entries if not entry.is_discard), None)
    if first is None or first.pos not in times or video.time_base is None:
        return 0
    delay = to_ticks(times[first.pos] - first.timestamp, video.time_base)
    return delay if 0 < delay < _LONGEST else 0
