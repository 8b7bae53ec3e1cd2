"""Synthetic clips in the format of Kinetics400 as commonly downloaded: 340x256, 30 fps, 10 s, stereo AAC."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS, SECONDS, RATE = 340, 256, 30, 10, 44_100
SPLITS = ("train", "val")
LABELS = ("playing organ", "tap dancing")
_CANVAS = 512
"""Side of the textures that move across the frame."""
_ENCODER: dict[str, object] = {"crf": "23", "preset": "medium", "g": "250"}
"""The defaults of libx264: few keyframes, B-frames, several reference frames."""


def make_kinetics(root: Path, train: int, val: int) -> None:
    """Create a Kinetics400 folder in the official layout; existing clips are kept."""
    numbers = iter(range(train + val))
    for split, count in zip(SPLITS, (train, val), strict=True):
        rows: list[tuple[object, ...]] = [
            ("label", "youtube_id", "time_start", "time_end", "split", "is_cc"),
        ]
        for number, label in ((next(numbers), LABELS[place % len(LABELS)]) for place in range(count)):
            name = f"bench{number:06d}"
            rows.append((label, name, 0, SECONDS, split, 0))
            path = root / split / label.replace(" ", "_") / f"{name}_000000_{SECONDS:06d}.mp4"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                write_clip(partial, number)
                partial.replace(path)
        with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def write_clip(path: Path, seed: int) -> None:
    """Write textured patches on a moving background with a cut in the middle, and chords in noise."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w", format="mp4") as file:
        video = file.add_stream("libx264", rate=FPS, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        video.options = _ENCODER
        sound = file.add_stream("aac", rate=RATE, layout="stereo", bit_rate=128_000)
        for number, picture in enumerate(_pictures(rng)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        samples = _sound(rng)
        for first in range(0, samples.shape[1], 1024):
            block = av.AudioFrame.from_ndarray(samples[:, first : first + 1024], "fltp", "stereo")
            block.sample_rate, block.pts, block.time_base = RATE, first, Fraction(1, RATE)
            file.mux(sound.encode(block))
        file.mux(sound.encode(None))


def _pictures(rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Yield all frames, uint8 (H, W, 3)."""
    cut = int(rng.integers(FPS * SECONDS // 4, FPS * SECONDS * 3 // 4))
    scenes = [_Scene(rng), _Scene(rng)]
    for number in range(FPS * SECONDS):
        yield scenes[number >= cut].picture(number / FPS, rng)


class _Scene:
    def __init__(self, rng: np.random.Generator) -> None:
        self.background = _texture(rng)
        self.drift = rng.uniform(-40, 40, 2)
        self.patches = [
            (_texture(rng), rng.uniform(0.1, 0.5, 2), rng.uniform(0, 7, 2), int(rng.integers(40, 120)))
            for _ in range(4)
        ]

    def picture(self, time: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        shake = 2 * np.sin([3.1 * time, 4.3 * time])
        picture = _window(self.background, self.drift * time + shake, HEIGHT, WIDTH)
        for texture, speed, phase, size in self.patches:
            place = (0.5 + 0.5 * np.sin(2 * np.pi * speed * time + phase)) * (HEIGHT - size, WIDTH - size)
            top, left = place.astype(int)
            picture[top : top + size, left : left + size] = _window(texture, 10 * place / size, size, size)
        grain = rng.normal(0, 2, (HEIGHT, WIDTH, 1))
        return (picture + grain).clip(0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise with the amplitude spectrum of photographs, (canvas, canvas, 3) in 0..255."""
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(_CANVAS, 1 / _CANVAS)] * 2)).clip(2)
    noise = rng.normal(size=(3, _CANVAS, _CANVAS))
    noise[1:] = 0.7 * noise[:1] + 0.3 * noise[1:]  # the channels of photographs are correlated
    texture = np.fft.ifft2(np.fft.fft2(noise) / frequency**1.3).real
    texture *= 45 / texture.std((1, 2), keepdims=True)
    bright: NDArray[np.float64] = (texture + rng.uniform(90, 160, (3, 1, 1))).clip(0, 255)
    return bright.transpose(1, 2, 0)


def _window(
    texture: NDArray[np.float64], place: NDArray[np.float64], height: int, width: int
) -> NDArray[np.float64]:
    """Return a window of the periodic texture, interpolated between pixels."""
    (top, left), (down, right) = np.floor(place).astype(int), place % 1
    rows, columns = np.arange(top, top + height + 1) % _CANVAS, np.arange(left, left + width + 1) % _CANVAS
    pixels = texture[rows[:, None], columns]
    pixels = (1 - down) * pixels[:-1] + down * pixels[1:]
    interpolated: NDArray[np.float64] = (1 - right) * pixels[:, :-1] + right * pixels[:, 1:]
    return interpolated


def _sound(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return stereo samples (2, S): four chords over soft noise."""
    time = np.arange(RATE * SECONDS) / RATE
    part = np.minimum((time / SECONDS * 4).astype(int), 3)
    tones = sum(
        np.sin(2 * np.pi * rng.uniform(110, 1760, 4)[part] * time) / (voice + 2) for voice in range(4)
    )
    samples: NDArray[np.float32] = (0.2 * tones + rng.normal(0, 0.03, (2, len(time)))).astype(np.float32)
    return samples.clip(-1, 1)
