"""Small real media files whose frames and sound encode the time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RATE = 16000
FPS = 16
LEVEL_STEP = 12


def picture(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return frame `number` of a sample (H, W, 3); the gray levels of its two halves encode the number."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[:, : width // 2], frame[:, width // 2 :] = (
        20 + LEVEL_STEP * (number // 16),
        20 + LEVEL_STEP * (number % 16),
    )
    return frame


def frame_numbers(frames: NDArray[np.uint8]) -> list[int]:
    """Return the numbers of frames (T, H, W, 3) of a sample."""
    width = frames.shape[2]
    halves = (frames[:, :, : width // 3], frames[:, :, -(width // 3) :])
    high, low = (np.round((half.mean((1, 2, 3)) - 20) / LEVEL_STEP).astype(int) for half in halves)
    return [int(number) for number in high * 16 + low]


def ramp(seconds: float) -> NDArray[np.int16]:
    """Return a sound whose value is its time: 5000 per second."""
    return np.round(np.arange(round(seconds * RATE)) / RATE * 5000).astype(np.int16)


def write_video(
    path: Path,
    *,
    seconds: float = 5.0,
    size: tuple[int, int] = (64, 48),
    audio: bool = True,
    times: Sequence[float] | None = None,
    sound_seconds: float | None = None,
) -> Path:
    """Write a clip (mkv or avi by name: H.264 and lossless sound; mp4: AAC) of width, height = `size`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [i / FPS for i in range(round(seconds * FPS))] if times is None else times
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=FPS, options={"crf": "1", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = (
            *size,
            "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p",
        )
        video.codec_context.time_base = Fraction(1, 1000)
        sound = file.add_stream("aac" if path.suffix == ".mp4" else "pcm_s16le", rate=RATE) if audio else None
        if sound is not None:
            sound.layout = "mono"
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound is not None:
            sound_seconds = sound_seconds or seconds
            for first in range(0, round(sound_seconds * RATE), 1024):
                chunk = ramp(sound_seconds)[None, first : first + 1024]
                block = av.AudioFrame.from_ndarray(chunk, format="s16", layout="mono")
                block.sample_rate, block.pts, block.time_base = RATE, first, Fraction(1, RATE)
                file.mux(sound.encode(block))
            file.mux(sound.encode(None))
    return path


def write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


KINETICS = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")


def write_kinetics(
    root: Path, *, train: int = 6, val: int = 2, audio: bool = True, size: tuple[int, int] = (64, 48)
) -> Path:
    """Write a Kinetics400 root with two classes; all clips have the same frames and sound."""
    buffer = write_video(root.parent / f"{root.name}.mkv", audio=audio, size=size)
    for split, count in (("train", train), ("val", val)):
        rows = []
        for number in range(count):
            label = ("clapping", "playing organ")[number % 2]
            rows.append((label, f"{split}{number:02d}", 0, 5, split, 0))
            folder = root / split / label.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{split}{number:02d}_000000_000005.mkv").write_bytes(buffer.read_bytes())
        write_table(root / f"{split}.csv", [KINETICS, *rows])
    return root


def decode(data: bytes) -> list[tuple[float, NDArray[np.uint8]]]:
    """Return (time, frame) of every frame."""
    with av.open(io.BytesIO(data), "r") as file:
        frames = list(file.decode(video=0))
        return [
            (float(frame.time or 0), np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
            for frame in frames
        ]


def recorded_picture(recorded: dict[str, Tensor], name: str) -> Tensor:
    """Return a recorded PIL image as (1, 3, 1, H, W) in [0, 1]."""
    found: Tensor = recorded[f"video/{name}"]
    return found.permute(2, 0, 1)[None, :, None].float() / 255


def noise(*shape: int) -> Tensor:
    """Return fixed uniform values in [0, 1)."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))
