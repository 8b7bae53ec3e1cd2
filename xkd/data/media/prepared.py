"""Write and read prepared clips: frames by their timestamps, sound as raw samples."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from xkd.data.media.container import open_container
from xkd.data.media.damage import MediaError
from xkd.data.media.picture import TICKS

WAV_HEADER = 44
"""Bytes before the samples in a wav written by `encode_wav`."""
_FAR_SECONDS = 1.0
"""Beyond this distance, seeking to the preceding keyframe is faster than decoding the frames between."""


def read_video(source: bytes, times: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the frames (T, H, W, 3), uint8, shown at the times (T,), seconds, by their timestamps.

    Times beyond either end give the first or the last frame; frames repeat where the source is slower.
    Only for files written by `VideoWriter`: seeking is wrong in some others (B-frames in AVI).

    Raises:
        MediaError: the bytes cannot be decoded.
    """
    order = np.argsort(times, kind="stable")
    reformatter = VideoReformatter()
    frames = np.empty(0, np.uint8)
    last: VideoFrame | None = None
    with open_container(io.BytesIO(source)) as file:
        for place, frame in zip(order, _frames_on_display(file, times[order]), strict=True):
            if frame is not last:
                # One thread: starting more takes longer than such a small frame.
                picture = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                frames = np.empty((len(times), *picture.shape), np.uint8) if last is None else frames
                last = frame
            frames[place] = picture
    return frames


def _frames_on_display(source: InputContainer, times: NDArray[np.float64]) -> Iterator[VideoFrame]:
    """Yield the frame shown at each of the ascending times; decode on, or seek where the next one is far."""
    if not source.streams.video:
        raise MediaError("no video stream")
    stream = source.streams.video[0]
    stream.codec_context.thread_count = 1
    coming: Iterator[VideoFrame] = iter(())
    frame: VideoFrame | None = None
    following: VideoFrame | None = None
    tick = float(stream.time_base or 1)
    # A frame's stored start may round to just after the requested time.
    for moment in np.floor((times + 0.5 / TICKS) / tick).astype(np.int64).tolist():
        if frame is None or (following is not None and moment > (following.pts or 0) + _FAR_SECONDS / tick):
            source.seek(max(0, moment), stream=stream)
            coming = source.decode(stream)
            frame = following = next(coming, None)
        while following is not None and (following.pts or 0) <= moment:
            frame, following = following, next(coming, None)
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
