"""AudioSet."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from xkd.data.sources.files import Files
from xkd.data.sources.kinetics import VIDEO_SUFFIXES
from xkd.data.sources.layout import Layout, SourceClip
from xkd.errors import UserError

_SUFFIXES = (*VIDEO_SUFFIXES, ".m4a", ".wav", ".flac", ".ogg")
_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
_SPLITS = {"balanced_train": "train", "unbalanced_train": "train", "eval": "test"}


def _read(files: Files) -> Iterator[SourceClip]:
    """``{balanced_train,unbalanced_train,eval}_segments.csv``; media anywhere, named after segments.

    AudioSet has no official names of media files. Known are the segment's YouTube id alone, with a ``Y``
    before it, and with its start, or start and end, after it in seconds or milliseconds. Labels are unused.
    """
    stems: dict[str, str] = {}
    for place in files.media:
        stem, _, suffix = place.rpartition("/")[2].rpartition(".")
        if f".{suffix.lower()}" in _SUFFIXES:
            stems.setdefault(stem, place)
    for part, split in _SPLITS.items():
        table = f"{part}_segments.csv"
        if not (files.root / table).is_file():
            print(f"{files.root} has no {table}; continuing without it", file=sys.stderr)
            continue
        _check_complete(files, table)
        for row in files.rows(table, _COLUMNS, header=False, comment="#"):
            name, start, end = row["YTID"], row.to_float("start_seconds"), row.to_float("end_seconds")
            found = (stems[known] for known in _segment_names(name, start, end) if known in stems)
            place = next(found, f"{part}_segments/{name}.mp4")
            yield SourceClip(id=name, file=files.media.get(place), place=place, splits=(split,))


def _check_complete(files: Files, table: str) -> None:
    """Compare the number of segments in a list with the one in its header."""
    lines = [line.text for line in files.lines(table)]
    header = next((found[1] for line in lines[:3] if (found := re.search(r"num_segs=(\d+)", line))), None)
    listed = sum(not line.startswith("#") for line in lines)
    if header and int(header) != listed:
        raise UserError(
            f"{files.root / table} lists {listed} segments, but its header says {header}; fetch it again"
        )


def _segment_names(name: str, start: float, end: float) -> Iterator[str]:
    """Yield the names that downloaders give the files of a segment."""
    yield from (name, f"Y{name}")
    for form in ("{:.0f}", "{:06.0f}"):
        first, last = form.format(start), form.format(end)
        yield from (f"{name}_{first}", f"{name}_{first}_{last}")
    yield from (f"{name}_{1000 * start:.0f}", f"{name}_{1000 * start:.0f}_{1000 * end:.0f}")
    yield from (f"{name}_{start:.3f}", f"{name}_{start:.3f}_{end:.3f}", f"Y{name}_{start:.3f}_{end:.3f}")


AUDIOSET = Layout(
    name="audioset",
    marks=("unbalanced_train_segments.csv", "balanced_train_segments.csv"),
    kind="audiovisual",
    read=_read,
)
