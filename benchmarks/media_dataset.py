"""Lay any media files out as a dataset that `prepare` reads."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from xkd.data.sources.files import AUDIO_SUFFIXES, VIDEO_SUFFIXES


def lay_out(root: Path, paths: Sequence[Path], *, with_video: bool) -> list[str]:
    """Link files into a folder like that of Kinetics400, or of ESC-50 without video; return their clips' ids.

    A file whose suffix the dataset does not have gets another; containers are told by their content.
    """
    suffixes = VIDEO_SUFFIXES if with_video else AUDIO_SUFFIXES
    header = "label youtube_id time_start time_end split" if with_video else "filename fold target category"
    rows: list[Sequence[object]] = [header.split()]
    ids: list[str] = []
    for number, path in enumerate(paths):
        suffix = path.suffix.lower() if path.suffix.lower() in suffixes else suffixes[0]
        if with_video:
            rows.append(("any", f"file{number:07d}", 0, 10, "train"))
            ids.append(f"file{number:07d}_000000_000010")
        else:
            rows.append((f"1-{number}-A-0{suffix}", 1 + number % 5, 0, "any"))
            ids.append(f"1-{number}-A-0")
        link = root / ("train/any" if with_video else "audio") / f"{ids[-1]}{suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    table = root / ("train.csv" if with_video else "meta/esc50.csv")
    table.parent.mkdir(exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return ids
