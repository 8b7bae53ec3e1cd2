"""Decode a media file with the ffmpeg program, and what `prepare` made of it, to compare them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import wave
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

RATE = 16_000
_WIDTH, _HEIGHT = 32, 24
_LONGEST = 700
"""Seconds that are decoded at most: some files name a length of days."""
_ASYNC = "aresample=async=1:first_pts=0:min_hard_comp=0.1"
"""Sound on the file's clock: gaps become silence, overlaps are cut, sample 0 is at the start.

Less than 0.1 s is none: Vorbis's times jitter by 10 ms and more.
"""
_SMALL = Interpolation.AREA | Interpolation.FULL_CHR_H_INT
"""Without the flag, chroma is not averaged where 4:2:0 becomes small RGB: up to 6 levels off."""


@dataclass(frozen=True)
class Film:
    """Decoded pictures and sound."""

    times: NDArray[np.float64]
    """(T,), seconds."""
    pictures: NDArray[np.uint8]
    """(T, 24, 32, 3), RGB."""
    aspect: float
    """Width of the displayed picture by its height."""
    sound: NDArray[np.int16] | None
    """(S,), mono, 16 kHz."""


class Reference:
    """A media file as the ffmpeg program sees it."""

    def __init__(self, path: Path) -> None:
        self._url = f"file:{path}"

    @property
    def container(self) -> str:
        """Name of the container."""
        return str(self._found.get("format", {}).get("format_name", "unknown"))

    @property
    def codecs(self) -> set[str]:
        """Names of the codecs of all streams."""
        return {stream.get("codec_name", "unknown") for stream in self._streams()}

    @property
    def has_pictures(self) -> bool:
        """Whether it has a video stream that is no cover picture."""
        return bool(self._streams("video"))

    def decode(self) -> Film | str:
        """Decode it; a text says why there is nothing."""
        found = self._streams("audio")
        data = b""
        if found:
            # A player takes the default track, or else the first.
            stream = min(found, key=lambda each: (-each["disposition"]["default"], each["index"]))
            sound = ("-af", _ASYNC, "-ac", "1", "-ar", str(RATE), "-f", "s16le")
            data = self._ffmpeg("-map", f"0:{stream['index']}", *sound)
        samples = np.frombuffer(data, np.int16) if data else None
        if not self.has_pictures:
            return "no sound" if samples is None else _film([], 1.0, samples)
        scaled = f"scale={_WIDTH}:{_HEIGHT}:flags=area+full_chroma_int,format=rgb24"
        raw = ("-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-c:v", "rawvideo", "-f", "nut")
        data = self._ffmpeg("-map", "0:V:0", "-vf", scaled, *raw)
        try:
            frames = list(_frames(io.BytesIO(data)))
        except av.error.InvalidDataError:
            return "no pictures"
        return _film(frames, self._aspect(), samples) if frames else "no pictures"

    @cached_property
    def _found(self) -> dict[str, Any]:
        command = ("ffprobe", "-v", "quiet", "-of", "json", "-show_streams", "-show_format", self._url)
        found: dict[str, Any] = json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout or "{}"
        )
        return found

    def _streams(self, kind: str = "") -> list[dict[str, Any]]:
        return [
            stream
            for stream in self._found.get("streams", [])
            if not kind or (stream["codec_type"] == kind and not stream["disposition"]["attached_pic"])
        ]

    def _aspect(self) -> float:
        """Return width by height of the displayed picture: with square pixels, and turned."""
        stream = self._streams("video")[0]
        across, down = (int(part) for part in stream.get("sample_aspect_ratio", "1:1").split(":"))
        aspect = stream["width"] * (across or 1) / (stream["height"] * (down or 1))
        turned = any(abs(data.get("rotation", 0)) % 180 == 90 for data in stream.get("side_data_list", []))
        return float(1 / aspect if turned else aspect)

    def _ffmpeg(self, *options: str) -> bytes:
        command = ("ffmpeg", "-v", "quiet", "-nostdin", "-i", self._url, "-t", str(_LONGEST))
        return subprocess.run((*command, *options, "pipe:1"), stdout=subprocess.PIPE, check=False).stdout


def decode_prepared(folder: Path) -> dict[str, Film | str]:
    """Decode what `prepare` wrote, by the clips' ids; a text says why a clip was skipped."""
    films: dict[str, Film | str] = {}
    with (folder / "skipped.csv").open(newline="", encoding="utf-8") as file:
        films |= {row["clip"]: row["reason"] for row in csv.DictReader(file)}
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        films |= {row["id"]: _decode_clip(folder, row) for row in csv.DictReader(file)}
    return films


def _decode_clip(folder: Path, row: dict[str, str]) -> Film:
    parts: dict[str, io.BytesIO] = {}
    with (folder / row["shard"]).open("rb") as shard:
        for modality in ("video", "audio"):
            if row[f"{modality}_offset"]:
                shard.seek(int(row[f"{modality}_offset"]))
                parts[modality] = io.BytesIO(shard.read(int(row[f"{modality}_size"])))
    frames = list(_frames(parts["video"])) if "video" in parts else []
    aspect = frames[0].width / frames[0].height if frames else 1.0
    samples = None
    if "audio" in parts:
        with wave.open(parts["audio"]) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    return _film(frames, aspect, samples)


def _frames(content: io.BytesIO) -> list[VideoFrame]:
    with av.open(content, "r") as file:
        return list(file.decode(video=0))


def _film(frames: list[VideoFrame], aspect: float, sound: NDArray[np.int16] | None) -> Film:
    pictures = np.zeros((len(frames), _HEIGHT, _WIDTH, 3), np.uint8)
    for picture, frame in zip(pictures, frames, strict=True):
        small = frame.reformat(_WIDTH, _HEIGHT, "rgb24", interpolation=_SMALL, threads=1)
        picture[:] = small.to_ndarray()
    return Film(np.array([frame.time or 0.0 for frame in frames]), pictures, aspect, sound)
