"""The files of generated datasets: encoded video with sound, wav, tables."""

from __future__ import annotations

import csv
import wave
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from xkd.data.synthetic.audio import RATE
from xkd.data.synthetic.video import FPS, SIDE

_WAV_RATE = 44100


def write_video(path: Path, frames: NDArray[np.uint8], waveform: NDArray[np.float32] | None) -> None:
    """Frames (T, SIDE, SIDE, 3) and a waveform (S,), with the encoders that come with PyAV.

    A name in ``.avi`` gets MPEG-4 with B-frames and MP3, as UCF101 and HMDB51 come, any other H.264 and AAC.
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
    """16-bit mono at 44.1 kHz, as ESC-50 and FSD50K come."""
    # band-limited resampling: the spectrum padded to the new rate
    count = round(len(waveform) * _WAV_RATE / RATE)
    resampled = np.fft.irfft(np.fft.rfft(waveform), count) * (count / len(waveform))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_WAV_RATE)
        file.writeframes((np.clip(resampled, -1, 1) * 32767).astype("<i2").tobytes())


def write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """CSV with Unix line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
