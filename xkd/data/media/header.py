"""What the header of a media file tells: its streams, their codecs and its duration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

from xkd.data.media.container import Content, choose_stream, open_container
from xkd.data.media.damage import MediaError


@dataclass(frozen=True)
class Header:
    """The streams that `xkd.data.media.transcode.transcode` would read."""

    video: str
    """Codec of the video; empty: there is none."""
    audio: str
    """Codec of the sound; empty: there is none."""
    seconds: float
    """Duration of the file; 0: unknown."""


def read_header(content: Content) -> Header:
    """Return what a file holds, without decoding it.

    Raises:
        MediaError: it cannot be opened, or has neither video nor sound.
    """
    # In WAV of 16 bits, FFmpeg looks for DTS, twenty times longer than the rest takes.
    settings = {"probesize": "16384"} if _is_wav(content) else {}
    with open_container(content, **settings) as container:
        video, audio = choose_stream(container.streams.video), choose_stream(container.streams.audio)
        if video is None and audio is None:
            raise MediaError("neither a video nor an audio stream")
        return Header(
            video=video.codec_context.codec.canonical_name if video else "",
            audio=audio.codec_context.codec.canonical_name if audio else "",
            seconds=_read_seconds(container),
        )


def _is_wav(content: Content) -> bool:
    """Return whether a file is WAV by its name, or its bytes are."""
    if isinstance(content, Path):
        return content.suffix.lower() == ".wav"
    return bytes(content.getbuffer()[8:12]) == b"WAVE"


def _read_seconds(container: InputContainer) -> float:
    """Return the duration; where the header has none, as in recordings of browsers, that of the packets."""
    if container.duration:
        return container.duration / av.time_base
    first: float | None = None
    last = 0.0
    try:
        for packet in container.demux():
            if packet.pts is not None:
                time = float(packet.pts * packet.time_base)
                first = time if first is None else min(first, time)
                last = max(last, time + float((packet.duration or 0) * packet.time_base))
    except (av.error.FFmpegError, IndexError, OSError, ValueError):
        # What can be read counts; preparing the clip reports the damage. A stream that begins late is an
        # IndexError of PyAV.
        pass
    return 0.0 if first is None else max(0.0, last - first)
