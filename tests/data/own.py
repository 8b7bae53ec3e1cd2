"""Folders and lists of one's own, with real clips that are quick to make."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.samples import write_video
from xkd.data.sources.dataset import SourceDataset
from xkd.data.sources.own import OwnConfig
from xkd.data.sources.source import open_source
from xkd.data.synthetic.files import write_wav


@functools.cache
def _bytes(suffix: str, seconds: float, audio: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"clip{suffix}")
        if suffix == ".wav":
            write_wav(path, np.zeros(round(16000 * seconds), np.float32))
        else:
            write_video(path, seconds=seconds, size=(32, 32), audio=audio)
        return path.read_bytes()


def write_clip(path: Path, content: int = 0, *, seconds: float = 1.5, audio: bool = True) -> Path:
    """Write an mp4 or a wav by its name; equal numbers of `content` give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _bytes(path.suffix, seconds, audio)
    # A box of mp4 that players skip, and of wav what follows its last chunk.
    path.write_bytes(data + b"\0\0\0\x10free" + content.to_bytes(8, "big"))
    return path


def write_clips(root: Path, *paths: str) -> Path:
    """Write clips of different content."""
    for number, path in enumerate(paths, 1):
        write_clip(root / path, number)
    return root


def read(root: Path, name: str = "", **settings: Any) -> SourceDataset:
    """Return a source as settings of one's own read it."""
    return open_source(root, name, config=OwnConfig(**settings))


def labels(source: SourceDataset) -> dict[str, tuple[str, ...]]:
    """Return the labels of each clip by its file."""
    return {clip.place: clip.labels for clip in source.clips}
