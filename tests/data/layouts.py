"""Datasets of empty media files, which are not decoded."""

from __future__ import annotations

from pathlib import Path

from xkd.data.sources.dataset import SourceDataset


def write(root: Path, *paths: str, size: int = 1) -> Path:
    """Write media files, which are not decoded here."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(bytes(size))
    return root


def write_list(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def places(source: SourceDataset) -> dict[str, str]:
    return {clip.id: clip.place for clip in source.clips}
