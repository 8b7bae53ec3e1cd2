"""Small media files of many containers, and ways to mangle their bytes."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT, FPS, SECONDS = 96, 64, 25, 2.0
_HEADER = 2048
"""Bytes at a file's start where most of its structure is described."""


@dataclass(frozen=True)
class Sample:
    """A media file, and where its packets lie."""

    name: str
    data: bytes
    packets: tuple[tuple[int, int], ...]
    """Position and size."""
    has_video: bool


_FORMS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "mp4": ("mp4", "libx264", "aac", {}),
    "mp4-fragmented": ("mp4", "libx264", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "mov": ("mov", "mjpeg", "pcm_s16le", {}),
    "mkv": ("matroska", "libx264", "libmp3lame", {}),
    "webm": ("webm", "libvpx", "libopus", {}),
    "avi": ("avi", "mpeg4", "libmp3lame", {}),
    "ts": ("mpegts", "mpeg2video", "mp2", {}),
    "mpg": ("mpeg", "mpeg1video", "mp2", {}),
    "flv": ("flv", "flv", "libmp3lame", {}),
    "wmv": ("asf", "wmv2", "wmav2", {}),
    "ogg": ("ogg", "", "libopus", {}),
    "mp3": ("mp3", "", "libmp3lame", {}),
    "flac": ("flac", "", "flac", {}),
    "wav": ("wav", "", "pcm_s16le", {}),
}
"""Container, codecs of video and audio, options; mpeg4 has B-frames."""


def samples() -> list[Sample]:
    """Return a valid file of each form."""
    return [_make(name, *form) for name, form in _FORMS.items()]


def mangle(sample: Sample, rng: random.Random) -> tuple[str, bytes]:
    """Return a way to mangle a file, and the mangled file."""
    ways = _WAYS | {"swapped packets": partial(_swap_packets, packets=sample.packets)}
    name = rng.choice(tuple(ways))
    data = bytearray(sample.data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            ways[name](data, rng)
    return name, bytes(data)


def _make(name: str, container: str, video: str, audio: str, options: dict[str, str]) -> Sample:
    buffer = io.BytesIO()
    rate = 24_000 if audio == "libopus" else 44_100
    with av.open(buffer, "w", format=container, options=options) as file:
        if video:
            film: Any = file.add_stream(video, rate=FPS, width=WIDTH, height=HEIGHT)
            film.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
            film.codec_context.gop_size = 10
            film.codec_context.max_b_frames = 2 if video in ("libx264", "mpeg4") else 0
        sound: Any = file.add_stream(audio, rate=rate, layout="mono", bit_rate=64_000)
        if video:
            for number in range(round(SECONDS * FPS)):
                picture = np.full((HEIGHT, WIDTH, 3), number * 5, np.uint8)
                picture[:, number : number + 8] = (255, 40, 0)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                file.mux(film.encode(frame))
            file.mux(film.encode(None))
        tone = np.sin(np.arange(round(SECONDS * rate)) * 2 * np.pi * 440 / rate) * 9000
        block = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], format="s16", layout="mono")
        block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
        file.mux(sound.encode(block))
        file.mux(sound.encode(None))
    data = buffer.getvalue()
    with av.open(io.BytesIO(data), "r") as found:
        packets = tuple((packet.pos, packet.size) for packet in found.demux() if packet.pos is not None)
    return Sample(name, data, packets, bool(video))


def _place(data: Sequence[int], rng: random.Random) -> int:
    """Return a place, half of the time in the header."""
    return rng.randrange(min(len(data), _HEADER) if rng.random() < 0.5 else len(data))


def _flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 10, 60))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _cut_off(data: bytearray, rng: random.Random) -> None:
    del data[max(1, _place(data, rng)) :]


def _cut_out(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    del data[start : start + min(rng.choice((1, 16, 500, 5000)), len(data) - 1)]


def _zero(data: bytearray, rng: random.Random) -> None:
    start, length = _place(data, rng), rng.choice((1, 8, 188, 4096))
    data[start : start + length] = bytes(len(data[start : start + length]))


def _insert_garbage(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    data[start:start] = rng.randbytes(rng.choice((1, 7, 188, 3000)))


def _overwrite(data: bytearray, rng: random.Random) -> None:
    start, length = _place(data, rng), rng.choice((2, 4, 64, 2000))
    data[start : start + length] = rng.randbytes(len(data[start : start + length]))


def _set_number(data: bytearray, rng: random.Random) -> None:
    """Write an extreme number, as a size or a time might be."""
    value = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1))
    length = 8 if value > 0xFFFFFFFF else 4 if value > 0xFF else rng.choice((1, 2, 4))
    start = _place(data, rng)
    data[start : start + length] = value.to_bytes(length, rng.choice(("big", "little")))


def _swap_packets(data: bytearray, rng: random.Random, packets: Sequence[tuple[int, int]]) -> None:
    first, second = sorted(rng.choices(packets, k=2))
    if first[0] + first[1] <= second[0] and second[0] + second[1] <= len(data):
        one, other = (bytes(data[at : at + size]) for at, size in (first, second))
        data[second[0] : second[0] + second[1]] = one
        data[first[0] : first[0] + first[1]] = other


def _swap_blocks(data: bytearray, rng: random.Random) -> None:
    length = rng.choice((188, 512, 4096))
    one, other = (rng.randrange(1 + len(data) // length) * length for _ in range(2))
    blocks = [bytes(data[at : at + length]) for at in (one, other)]
    if len(blocks[0]) == len(blocks[1]):
        data[one : one + length], data[other : other + length] = blocks[1], blocks[0]


def _repeat_block(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    data[start:start] = data[start : start + rng.choice((16, 188, 4096))]


_WAYS: dict[str, Callable[[bytearray, random.Random], None]] = {
    "flipped bits": _flip_bits,
    "cut off": _cut_off,
    "cut out": _cut_out,
    "zeroed": _zero,
    "garbage": _insert_garbage,
    "overwritten": _overwrite,
    "odd number": _set_number,
    "swapped blocks": _swap_blocks,
    "repeated block": _repeat_block,
}
