"""Decode and encode media files.

PyAV reads all media: source files once, sequentially; prepared clips by timestamps from the preceding
keyframe, their audio as raw wav bytes.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

WAV_HEADER = 44
"""Bytes before the samples in a wav written by `encode_wav`."""
_TICKS = 90_000
"""Time base of the mp4 files we write: exact for the usual frame rates."""
_FAR_SECONDS = 1.0
"""Beyond this distance, seeking to the preceding keyframe is faster than decoding the frames between."""
Content = Path | io.BytesIO
"""A source file: its path or its bytes."""


class MediaError(Exception):
    """A file that cannot be decoded. It is counted and skipped, and alone never stops a run."""


def read_video(source: bytes, times: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the frames (T, H, W, 3), uint8, shown at the times (T,), seconds, by their timestamps.

    Times beyond either end give the first or the last frame; frames repeat where the source is slower.
    Only for files written by `transcode_video`: seeking is wrong in some others (B-frames in AVI).

    Raises:
        MediaError: the bytes cannot be decoded.
    """
    order = np.argsort(times, kind="stable")
    reformatter = VideoReformatter()
    frames = np.empty(0, np.uint8)
    last: VideoFrame | None = None
    with _open(io.BytesIO(source)) as file:
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
    for moment in np.floor((times + 0.5 / _TICKS) / tick).astype(np.int64).tolist():
        if frame is None or (following is not None and moment > (following.pts or 0) + _FAR_SECONDS / tick):
            source.seek(max(0, moment), stream=stream)
            coming = source.decode(stream)
            frame = following = next(coming, None)
        while following is not None and (following.pts or 0) <= moment:
            frame, following = following, next(coming, None)
        if frame is None:
            raise MediaError("no video frames")
        yield frame


def transcode_video(content: Content, short_side: int, max_fps: float | None) -> tuple[bytes, float]:
    """Encode a source file for random access; return the mp4 file and its duration in seconds.

    The short side becomes `short_side` (never enlarged), frames keep their timestamps; above `max_fps`
    the first frame of every 1/max_fps interval is kept. H.264 without B-frames, a keyframe every half
    second, so that a window anywhere in the clip decodes few unused frames.

    Raises:
        MediaError: there is no video stream or no frame can be decoded.
    """
    buffer = io.BytesIO()
    with _open(content) as source, av.open(buffer, "w", format="mp4") as target:
        if not source.streams.video:
            raise MediaError("no video stream")
        rate = source.streams.video[0].average_rate or Fraction(25)
        if max_fps is not None:
            rate = min(rate, Fraction(max_fps).limit_denominator(1000))
        stream, time = None, 0.0
        for time, frame in _timed_frames(source, max_fps):
            if stream is None:
                scale = min(1.0, short_side / min(frame.width, frame.height))
                # Even, as 4:2:0 chroma requires.
                width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
                stream = target.add_stream("libx264", rate, width=width, height=height, pix_fmt="yuv420p")
                stream.options = {"crf": "20", "preset": "veryfast", "tune": "fastdecode", "bf": "0"}
                stream.codec_context.gop_size = max(1, round(rate / 2))
                stream.codec_context.time_base = Fraction(1, _TICKS)
                # One thread: the clips run in parallel, and x264's output depends on the threads.
                stream.codec_context.thread_count = 1
            small = frame.reformat(width, height, "yuv420p", interpolation="BILINEAR", threads=1)
            small.pts, small.time_base = round(time * _TICKS), Fraction(1, _TICKS)
            target.mux(stream.encode(small))
        if stream is None:
            raise MediaError("no video frames")
        target.mux(stream.encode(None))
    return buffer.getvalue(), time + float(1 / rate)


def read_audio(content: Content, sample_rate: int) -> NDArray[np.int16] | None:
    """Return the audio (S,), int16, of a source file, mono and resampled; None without an audio stream.

    Sample 0 is at the file's start.

    Raises:
        MediaError: the file cannot be decoded or its audio stream is empty.
    """
    resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
    chunks: list[NDArray[np.int16]] = []
    lead = 0.0
    with _open(content) as source:
        if not source.streams.audio:
            return None
        for frame in source.decode(source.streams.audio[0]):
            if not chunks and frame.time is not None:
                lead = frame.time - _origin(source)
            # The resampler counts samples itself; gaps in the timestamps must not stop it.
            frame.pts = None
            chunks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        chunks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    if not samples.size:
        raise MediaError("no audio samples")
    shift = round(lead * sample_rate)
    if shift > 60 * sample_rate:
        raise MediaError(f"audio starts {lead:.0f} s after the file does")
    return np.pad(samples, (shift, 0)) if shift > 0 else samples[-shift:]


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


def _timed_frames(source: InputContainer, max_fps: float | None) -> Iterator[tuple[float, VideoFrame]]:
    """Decode sequentially; yield (seconds from the file's start, frame), at most `max_fps`.

    Frames before the start are pre-roll of a trimmed file and are dropped. A frame whose timestamp is
    missing or goes back follows the one before it by the usual distance.
    """
    stream = source.streams.video[0]
    stream.codec_context.thread_count = 1
    origin, step = _origin(source), float(1 / (stream.average_rate or 25))
    time: float | None = None
    slot = -1
    for frame in source.decode(stream):
        if frame.time is not None and (time is None or frame.time - origin > time):
            time = frame.time - origin
        else:
            time = 0.0 if time is None else time + step
        if time < -0.5 / _TICKS:
            continue
        if max_fps is not None:
            if int(time * max_fps + 1e-3) <= slot:
                continue
            slot = int(time * max_fps + 1e-3)
        yield max(time, 0.0), frame


@contextmanager
def _open(content: Content) -> Iterator[InputContainer]:
    """Open a file to read; its errors, and those of encoding it, become a `MediaError`."""
    if isinstance(content, io.BytesIO):
        content.seek(0)
    try:
        with av.open(content, "r", metadata_errors="replace") as file:
            yield file
    except (av.error.FFmpegError, OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        lines = text.strip().splitlines()
        raise MediaError(f"{type(error).__name__}: {lines[0] if lines else ''}") from None


def _origin(source: InputContainer) -> float:
    """Return the start of the file's clock in seconds; both streams count from it."""
    return max(0, source.start_time or 0) / av.time_base
