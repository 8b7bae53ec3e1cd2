"""Encode a source clip, and append it to a shard."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass

from xkd.data.shards.manifest import Clip
from xkd.data.shards.media import MediaError, encode_wav, read_audio, transcode_video
from xkd.data.sources.layout import Kind, SourceClip


@dataclass(frozen=True)
class EncodedClip:
    """The files of a clip in a shard."""

    video: bytes | None
    """mp4."""
    audio: bytes | None
    """wav."""
    duration: float


def encode_clip(
    clip: SourceClip, *, kind: Kind, short_side: int, max_fps: float | None, sample_rate: int
) -> EncodedClip:
    """Decode and encode one clip, in a worker; see `PrepareConfig` for the arguments.

    Raises:
        MediaError: the clip cannot be used; the reason goes to skipped.csv.
    """
    assert clip.file is not None
    if clip.file.size == 0:
        raise MediaError("empty file")
    content = clip.file.content()
    video, seconds = None, float("inf")
    if kind != "audio":
        video, seconds = transcode_video(content, short_side, max_fps)
    try:
        samples = read_audio(content, sample_rate)
    except MediaError:
        if kind != "video":
            raise
        samples = None  # a dataset of videos does not need it
    if samples is None:
        if video is None:
            raise MediaError("no audio stream")
        return EncodedClip(video, None, seconds)
    if kind != "video":
        seconds = min(seconds, len(samples) / sample_rate)
    return EncodedClip(video, encode_wav(samples, sample_rate), seconds)


def append_clip(tar: tarfile.TarFile, shard: str, clip: SourceClip, encoded: EncodedClip) -> Clip:
    """Append a clip's files to a shard and return its row."""
    offsets: dict[str, int | None] = {}
    for kind, suffix, data in (("video", "mp4", encoded.video), ("audio", "wav", encoded.audio)):
        offsets[f"{kind}_offset"] = offsets[f"{kind}_size"] = None
        if data is not None:
            # Time, owner and mode stay the constants of TarInfo: equal clips give equal bytes.
            member = tarfile.TarInfo(f"{clip.id}.{suffix}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            offsets[f"{kind}_offset"] = tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            offsets[f"{kind}_size"] = len(data)
    return Clip(
        id=clip.id, splits=clip.splits, labels=clip.labels, shard=shard, duration=encoded.duration, **offsets
    )
