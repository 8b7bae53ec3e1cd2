"""Open a source file: which containers are read, and which of their streams."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from xkd.data.media.damage import MediaError
from xkd.io import one_line

Content = Path | io.BytesIO
"""A source file: its path or its bytes."""
_Stream = TypeVar("_Stream", VideoStream, AudioStream)

_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,asf,flv,ogg,rm,dv,mxf,gxf,nut,wtv,"
    "ivf,wav,w64,aiff,caf,au,flac,mp3,aac,ac3,eac3,dts,amr,amrnb,amrwb,ape,wv,tta,tak,mpc,mpc8,voc,gsm,dsf"
)
"""FFmpeg's names of the containers that are opened: no still images, and no texts that name other files."""
_NO_MOTION = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
_FOR_SOME = (
    Disposition.comment
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.descriptions
    | Disposition.karaoke
    | Disposition.dependent
)


@contextmanager
def open_container(content: Content, **settings: str) -> Iterator[InputContainer]:
    """Open a file to read; its errors, and those of encoding it, become a `MediaError`.

    Only the file itself is read, and only as one of the containers that hold video or sound. `settings` are
    FFmpeg's, of the container.
    """
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file", **settings}
    try:
        if isinstance(content, Path):
            with content.open("rb") as opened:  # FFmpeg's errors below are then those of the content
                first = opened.read(1)
            name: str | io.BytesIO = f"file:{content}"
        else:
            content.seek(0)
            first = content.read(1)
            content.seek(0)
            name = content
    except OSError as error:
        raise MediaError(one_line(error)) from None
    if not first:
        raise MediaError("empty file")
    try:
        file = av.open(name, "r", metadata_errors="replace", container_options=options)
    except (av.error.FFmpegError, OSError, ValueError):
        raise MediaError("not a known container of video or sound, or its header is damaged") from None
    with file:
        try:
            yield file
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MediaError(f"damaged: {one_line(error)}") from None


def choose_stream(streams: Sequence[_Stream]) -> _Stream | None:
    """Return the default stream, else the first, of those that can be decoded; no cover or still image."""

    def rank(stream: _Stream) -> tuple[bool, bool]:
        return not stream.disposition & Disposition.default, bool(stream.disposition & _FOR_SOME)

    moving = (stream for stream in streams if not stream.disposition & _NO_MOTION)
    return min((stream for stream in moving if stream.codec_context is not None), key=rank, default=None)
