"""The files of generated datasets: encoded video with sound, wav, annotation files."""

from __future__ import annotations

import csv
import functools
import io
import os
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from xkd.data.synthetic.audio import RATE
from xkd.data.synthetic.plan import Plan
from xkd.data.synthetic.scenes import SECONDS
from xkd.data.synthetic.video import FPS, SIDE
from xkd.errors import UserError
from xkd.io import write_text
from xkd.parallel.processes import Failure, run_each
from xkd.progress import progress

_WAV_RATE = 44100
_SECONDS_LIMIT = 120.0
"""Longest that a single clip may take."""


@dataclass(frozen=True)
class MediaFile:
    """A video of a clip, or its soundtrack where the name ends in ``.wav``."""

    path: str
    """Relative to the dataset."""
    plan: Plan
    seconds: float = SECONDS
    """Length of a soundtrack."""
    silent: bool = False
    """Whether a video has no soundtrack."""


@dataclass(frozen=True)
class TextFile:
    """An annotation file."""

    path: str
    """Relative to the dataset."""
    text: str


File = MediaFile | TextFile


def make_table(path: str, rows: Iterable[Sequence[object]]) -> TextFile:
    """Return a CSV file with Unix line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return TextFile(path, text.getvalue())


def make_list(path: str, lines: Iterable[str]) -> TextFile:
    """Return a file of lines."""
    return TextFile(path, "".join(f"{line}\n" for line in lines))


def write_files(name: str, root: Path, files: Iterable[File]) -> None:
    """Write the media files in several processes, then the annotation files.

    Raises:
        UserError: a file cannot be written.
    """
    files = list(files)
    clips: dict[Plan, list[MediaFile]] = {}
    for file in files:
        (root / file.path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, MediaFile):
            clips.setdefault(file.plan, []).append(file)
    write = functools.partial(_write_clip, root)
    with progress(name, len(clips)) as bar:
        for outcome in run_each(write, [*clips.items()], len(os.sched_getaffinity(0)), _SECONDS_LIMIT):
            if isinstance(outcome, Failure):
                raise UserError(f"cannot write {name} to {root}: {outcome.reason}")
            bar.advance()
    for file in files:
        if isinstance(file, TextFile):
            write_text(root / file.path, file.text)


def _write_clip(root: Path, clip: tuple[Plan, list[MediaFile]]) -> None:
    """Write all files of a clip, whose waveform is synthesized once."""
    plan, files = clip
    waveform = None if all(file.silent for file in files) else plan.waveform()
    for file in files:
        if waveform is not None and file.path.endswith(".wav"):
            write_wav(root / file.path, waveform[: round(file.seconds * RATE)])
        else:
            write_video(root / file.path, plan.frames(), waveform)


def write_video(path: Path, frames: NDArray[np.uint8], waveform: NDArray[np.float32] | None) -> None:
    """Encode frames (T, SIDE, SIDE, 3) and a waveform (S,) with the encoders that PyAV includes.

    A name in ``.avi`` gets MPEG-4 with B-frames and MP3, as in UCF101 and HMDB51, any other H.264 and AAC.
    """
    old = path.suffix == ".avi"
    picture_options = {"q": "3", "bf": "2"} if old else {"preset": "veryfast", "crf": "25"}
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4" if old else "libx264", rate=FPS, options=picture_options)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        video.gop_size = FPS
        video.thread_count = 1  # the encoding must not depend on the cores
        audio = None
        if waveform is not None:
            audio = file.add_stream("mp3" if old else "aac", rate=RATE, layout="mono", bit_rate=64000)
        for index, picture in enumerate(frames):
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            image.pts = index
            file.mux(video.encode(image))
        file.mux(video.encode())
        if audio is not None and waveform is not None:
            sound = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = RATE, 0, Fraction(1, RATE)
            file.mux(audio.encode(sound))
            file.mux(audio.encode())


def write_wav(path: Path, waveform: NDArray[np.float32]) -> None:
    """Write 16-bit mono at 44.1 kHz, as in ESC-50 and FSD50K."""
    # Band-limited resampling: the spectrum padded to the new rate.
    count = round(len(waveform) * _WAV_RATE / RATE)
    resampled = np.fft.irfft(np.fft.rfft(waveform), count) * (count / len(waveform))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_WAV_RATE)
        file.writeframes((np.clip(resampled, -1, 1) * 32767).astype("<i2").tobytes())
