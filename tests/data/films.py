"""Source films in any container and codec; every picture and every piece of sound tells its own time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

from tests.data.samples import RATE, decode, frame_numbers, picture
from xkd.data.media.transcode import Transcoded, transcode

SIZE = (64, 48)
_LONGEST = 8
"""Seconds of noise."""
_PIECE = RATE // 10
H264 = {"crf": "4", "preset": "veryfast", "bf": "2", "g": "25", "sc_threshold": "0"}


@functools.cache
def noise(rate: int) -> NDArray[np.int16]:
    """Return the sound of all films: noise up to 3 kHz, the same at every sample rate."""
    rng, bins = np.random.default_rng(0), 3000 * _LONGEST
    spectrum = rng.normal(size=bins) + 1j * rng.normal(size=bins)
    wave = np.fft.irfft(spectrum, _LONGEST * rate) * rate
    sound: NDArray[np.int16] = np.round(wave * (4000 / wave.std())).astype(np.int16)
    return sound


def lateness(samples: NDArray[np.int16], step: float = 0.2) -> dict[float, float]:
    """Return by how many seconds the pieces of prepared sound are late, by where they begin in it.

    A piece that is silent or unlike the sound of the film has no entry.
    """
    film = noise(RATE).astype(np.float64)
    spectrum, found = np.fft.rfft(film), {}
    for first in np.arange(0, len(samples) - _PIECE, round(step * RATE)):
        piece = samples[first : first + _PIECE].astype(np.float64)
        alike = np.fft.irfft(spectrum * np.fft.rfft(piece, len(film)).conj(), len(film))
        at = int(alike.argmax())
        size = np.linalg.norm(piece) * np.linalg.norm(film[at : at + _PIECE])
        if size > 0 and np.abs(piece).mean() > 100 and alike[at] > 0.7 * size:
            late = (first - at + len(film) // 2) % len(film) - len(film) // 2
            found[round(float(first / RATE), 3)] = float(late) / RATE
    return found


@dataclass(frozen=True)
class Prepared:
    """What a film became."""

    numbers: list[int]
    times: list[float]
    late: dict[float, float]
    whole: Transcoded[bytes]

    @property
    def picture_error(self) -> float:
        """Seconds by which the picture that is most off its time at 25 frames per second is late."""
        return self.error(25)

    def error(self, fps: float | Fraction) -> float:
        """The same at another rate."""
        apart = [time - number / float(fps) for time, number in zip(self.times, self.numbers, strict=True)]
        return max(apart, key=abs)

    @property
    def sound_error(self) -> float:
        """Seconds by which the sound that is most off its time is late."""
        return max(self.late.values(), key=abs)

    def silent(self, start: float, end: float) -> bool:
        """Whether nothing is heard between these seconds."""
        assert self.whole.audio is not None
        return not self.whole.audio[round(start * RATE) : round(end * RATE)].any()


def prepare_film(path: Path, **options: Any) -> Prepared:
    """Transcode a film."""
    settings = {"with_video": True, "short_side": SIZE[1], "max_fps": None, "sample_rate": RATE} | options
    found = transcode(path, **settings)
    frames = decode(found.video) if found.video is not None else []
    numbers = [frame_numbers(frame[None])[0] for _, frame in frames]
    late = {} if found.audio is None else lateness(found.audio)
    return Prepared(numbers, [time for time, _ in frames], late, found)


@dataclass(frozen=True)
class Video:
    """How a film's pictures are coded; `numbers` repeats or leaves out pictures."""

    codec: str = "libx264"
    rate: Fraction | int = 25
    numbers: Sequence[int] = range(100)
    size: tuple[int, int] = SIZE
    format: str = "yuv420p"
    options: Mapping[str, str] | None = None
    tag: str | None = None
    draw: Callable[[int, int, int], NDArray[np.uint8]] = picture
    aspect: Fraction | None = None
    """Width of a pixel by its height."""
    gaps: bool = False
    """Whether pictures that are left out leave a gap."""


@dataclass(frozen=True)
class Sound:
    """How a film's sound is coded."""

    codec: str = "aac"
    rate: int = 44_100
    layout: str = "mono"
    start: float = 0.0
    """Of the part of the noise that is heard, at its own time."""
    end: float = 4.0
    gap: tuple[float, float] = (0.0, 0.0)
    """Between these seconds there are no packets."""
    block: int = 1024
    """Samples given to the encoder at once, which are a packet of PCM."""


VIDEO, SOUND = Video(), Sound()


def write_film(
    path: Path,
    video: Video | None = VIDEO,
    *sounds: Sound,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write a film of 4 seconds, in one container by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_options={"strict": "-2"} | dict(options or {})) as file:
        packets = _encode_video(file, video) if video is not None else []
        for sound in sounds:
            packets += _encode_sound(file, sound)
        mux(file, packets)
    return path


def mux(file: Any, packets: Iterable[Packet[Any]]) -> None:
    """Write packets in the order of their times."""
    for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
        file.mux(packet)


def _encode_video(file: Any, video: Video) -> list[Packet[Any]]:
    defaults = H264 if video.codec == "libx264" else {}
    stream: Any = file.add_stream(video.codec, video.rate, options=dict(defaults | dict(video.options or {})))
    stream.width, stream.height, stream.pix_fmt = *video.size, video.format
    stream.codec_context.thread_count = 1
    if video.aspect is not None:
        stream.codec_context.sample_aspect_ratio = video.aspect
    if video.codec not in ("libx264", "libvpx", "libvpx-vp9", "libsvtav1", "ffv1", "huffyuv", "rawvideo"):
        stream.codec_context.qmin, stream.codec_context.qmax = 1, 3
        stream.codec_context.bit_rate = 2_000_000
    if video.tag is not None:
        stream.codec_context.codec_tag = video.tag
    packets = []
    for place, number in enumerate(video.numbers):
        frame = av.VideoFrame.from_ndarray(video.draw(number, *video.size), "rgb24")
        frame.time_base, frame.pts = 1 / Fraction(video.rate), number if video.gaps else place
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def _encode_sound(file: Any, sound: Sound) -> list[Packet[Any]]:
    stream: Any = file.add_stream(sound.codec, sound.rate, options={"strict": "-2"})
    stream.layout = sound.layout
    if sound.codec not in ("flac", "alac") and not sound.codec.startswith("pcm"):
        stream.codec_context.bit_rate = 128_000
    first, last = (round(second * sound.rate) for second in (sound.start, sound.end))
    packets = []
    for at in range(first, last, sound.block):
        samples = noise(sound.rate)[None, at : min(at + sound.block, last)]
        channels = av.AudioLayout(sound.layout).nb_channels
        frame = av.AudioFrame.from_ndarray(samples.repeat(channels, 0), "s16p", sound.layout)
        frame.sample_rate, frame.pts, frame.time_base = sound.rate, at, Fraction(1, sound.rate)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    begin, end = sound.gap
    return [packet for packet in packets if not begin <= packet.pts * packet.time_base < end]


def copy_film(source: Path, target: Path, change: Callable[[Packet[Any], float], None]) -> Path:
    """Copy a film's packets; `change` may alter each, given its time in seconds."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = [new.add_stream_from_template(stream) for stream in old.streams]
        for packet in old.demux():
            if packet.size:
                change(packet, float((packet.pts or 0) * packet.time_base))
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    return target


def join_films(folder: Path, sounds: Sequence[Sound], starts: Sequence[float] = (0, 0)) -> Path:
    """Write parts of 2 s with these sounds as MPEG-TS, and join their bytes.

    Args:
        starts: by how many seconds the clock of each part is ahead of the film's.
    """
    parts = []
    for number, (sound, start) in enumerate(zip(sounds, starts, strict=True)):
        video = Video(rate=5, numbers=range(10 * number, 10 * number + 10), gaps=True, options={"bf": "0"})
        options = {"mpegts_copyts": "1", "muxdelay": "0", "avoid_negative_ts": "disabled"}
        options["output_ts_offset"] = str(start)
        parts.append(write_film(folder / f"{number}.ts", video, sound, options=options).read_bytes())
    whole = folder / "whole.ts"
    whole.write_bytes(b"".join(parts))
    return whole


def pack(chunks: Sequence[bytes], rate: Fraction | int) -> list[bytes]:
    """Return MPEG-4 chunks with their B-frames packed as DivX and XviD do, one chunk for each picture.

    An anchor and the first B-frame displayed before it share a chunk; a picture without content, which says
    that the anchor is displayed now, takes the last B-frame's place.
    """
    header = chunks[0]
    at = header.index(_USER_DATA)
    marked = header[:at] + _USER_DATA + b"DivX503b1393p" + header[header.index(b"\0\0\1", at + 4) :]
    waiting = [marked, *chunks[1:]]
    packed: list[bytes] = []
    while waiting:
        anchor, between = waiting.pop(0), []
        while waiting and _vop(waiting[0])[:2] == "10":
            between.append(waiting.pop(0))
        if between:
            packed += [anchor + between[0], *between[1:], _not_coded(anchor, rate)]
        else:
            packed.append(anchor)
    return packed


_USER_DATA = b"\0\0\1\xb2"


def write_packed(path: Path, rate: Fraction | int, *sounds: Sound, count: int = 48) -> Path:
    """Write an AVI with packed B-frames."""
    coder: Any = av.CodecContext.create("mpeg4", "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base = *SIZE, "yuv420p", 1 / Fraction(rate)
    coder.qmin, coder.qmax, coder.options = 1, 3, {"bf": "2", "g": "24"}
    frames = (av.VideoFrame.from_ndarray(picture(number, *SIZE), "rgb24") for number in range(count))
    coded = [bytes(packet) for frame in [*frames, None] for packet in coder.encode(frame)]
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("mpeg4", rate)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.codec_tag = "XVID"
        packets = []
        for place, chunk in enumerate(pack(coded, rate)):
            packet = Packet(chunk)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, 1 / Fraction(rate), place, place
            packet.is_keyframe = _vop(chunk)[:2] == "00"
            packets.append(packet)
        for sound in sounds:
            packets += _encode_sound(file, sound)
        mux(file, packets)
    return path


def _vop(chunk: bytes) -> str:
    """Return the first bits of a chunk's picture: two of its type, then its time."""
    start = chunk.index(b"\0\0\1\xb6") + 4
    return "".join(f"{byte:08b}" for byte in chunk[start : start + 8])


def _not_coded(anchor: bytes, rate: Fraction | int) -> bytes:
    bits = _vop(anchor)
    stamp = bits.index("0", 2) + 2 + (Fraction(rate).numerator - 1).bit_length()
    empty = "01" + bits[2:stamp] + "10"
    empty += "0" + "1" * (7 - len(empty) % 8)
    return b"\0\0\1\xb6" + int(empty, 2).to_bytes(len(empty) // 8, "big")
