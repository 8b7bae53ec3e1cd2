"""Write and read prepared clips: frames by their timestamps, sound as raw samples."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from xkd.data.media.container import open_container
from xkd.data.media.damage import MediaError
from xkd.data.media.picture import TICKS

WAV_HEADER = 44
"""Bytes before the samples in a wav written by `encode_wav`."""


def read_video(source: bytes, times: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the frames (T, H, W, 3), uint8, shown at the times (T,), seconds, by their timestamps.

    Times beyond either end give the first or the last frame; frames repeat where the source is slower.
    Only for files written by `VideoWriter`, which have no B-frames.

    Raises:
        MediaError: the bytes cannot be decoded.
    """
    order = np.argsort(times, kind="stable")
    reformatter = VideoReformatter()
    frames = np.empty(0, np.uint8)
    last: VideoFrame | None = None
    with open_container(io.BytesIO(source)) as file:
        if not file.streams.video:
            raise MediaError("no video stream")
        shown = _frames_on_display(source, file.streams.video[0], times[order])
        for place, frame in zip(order, shown, strict=True):
            if frame is not last:
                # One thread: starting more takes longer than such a small frame.
                picture = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                frames = np.empty((len(times), *picture.shape), np.uint8) if last is None else frames
                last = frame
            frames[place] = picture
    return frames


def _frames_on_display(
    source: bytes, stream: VideoStream, times: NDArray[np.float64]
) -> Iterator[VideoFrame]:
    """Yield the frame shown at each of the ascending times.

    Each is decoded from the keyframe before it, or from the frame decoded last if that is nearer; frames
    between the last one on display and the next keyframe are not.
    """
    context = stream.codec_context
    context.thread_count = 1
    entries = list(stream.index_entries)
    if not entries:
        raise MediaError("no video frames")
    starts = np.array([entry.timestamp for entry in entries])
    # The index marks the frames from which decoding may start; packets mark some that refer to earlier ones.
    keyframes = np.array([number for number, entry in enumerate(entries) if entry.is_keyframe] or [0])
    # A frame's stored start may round to just after the requested time.
    moments = np.floor((times + 0.5 / TICKS) / float(stream.time_base or 1)).astype(np.int64)
    decoded, frame = -1, None
    for number in np.searchsorted(starts, moments, side="right").clip(1) - 1:
        keyframe = keyframes[np.searchsorted(keyframes, number, side="right") - 1]
        for entry in entries[max(decoded + 1, keyframe) : number + 1]:
            # Without B-frames, each packet is a frame.
            (frame,) = context.decode(Packet(source[entry.pos : entry.pos + entry.size]))
        decoded = number
        if frame is None:
            raise MediaError("no video frames")
        yield frame


def encode_wav(samples: NDArray[np.int16], sample_rate: int) -> bytes:
    """Return a mono 16-bit wav file of the samples (S,)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def to_waveform(samples: bytes, length: int) -> NDArray[np.float32]:
    """Return 16-bit samples as float32 in [-1, 1], cut or zero-padded at the end to `length`.

    Divided by 32767, as the authors' front end does (method notes, section 9).
    """
    waveform = np.zeros(length, np.float32)
    values = np.frombuffer(samples, "<i2")[:length]
    np.divide(values, 32767.0, out=waveform[: len(values)], dtype=np.float32, casting="unsafe")
    return waveform
