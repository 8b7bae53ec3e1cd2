"""AudioSet."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from xkd.data.sources.kinetics import VIDEO_SUFFIXES
from xkd.data.sources.layout import Files, Layout, SourceClip
from xkd.errors import UserError

_SUFFIXES = (*VIDEO_SUFFIXES, ".m4a", ".wav", ".flac", ".ogg")


def _read(files: Files) -> Iterator[SourceClip]:
    """``{balanced_train,unbalanced_train,eval}_segments.csv``; media anywhere, named after segments.

    AudioSet has no official names of media files. Known are the segment's YouTube id alone, with a ``Y``
    before it, and with its start, or start and end, after it in seconds or milliseconds. Labels are unused.
    """
    columns = ("YTID", "start_seconds", "end_seconds", "positive_labels")
    splits = {"balanced_train": "train", "unbalanced_train": "train", "eval": "test"}
    stems: dict[str, str] = {}
    for place in files.media:
        stem, _, suffix = place.rpartition("/")[2].rpartition(".")
        if f".{suffix.lower()}" in _SUFFIXES:
            stems.setdefault(stem, place)
    for part, split in splits.items():
        table = f"{part}_segments.csv"
        if not (files.root / table).is_file():
            print(f"{files.root} has no {table}; continuing without it", file=sys.stderr)
            continue
        lines = [line.text for line in files.lines(table)]
        listed = sum(not line.startswith("#") for line in lines)
        header = re.search(r"num_segs=(\d+)", " ".join(lines[:3]))
        if header and int(header[1]) != listed:
            problem = f"lists {listed} segments, but its header says {header[1]}"
            raise UserError(f"{files.root / table} {problem}; fetch it again")
        for row in files.rows(table, columns, header=False, comment="#"):
            start, end = (row.to_number(column, float) for column in ("start_seconds", "end_seconds"))
            name = row["YTID"]
            found = (stems[known] for known in _segment_names(name, start, end) if known in stems)
            yield files.clip(name, next(found, f"{part}_segments/{name}.mp4"), [split])


def _segment_names(name: str, start: float, end: float) -> Iterator[str]:
    """Yield the names that downloaders give the files of a segment."""
    yield from (name, f"Y{name}")
    for form, scale in (("{:.0f}", 1), ("{:06.0f}", 1), ("{:.0f}", 1000), ("{:.3f}", 1)):
        first, last = form.format(scale * start), form.format(scale * end)
        yield from (f"{name}_{first}", f"{name}_{first}_{last}")
    yield f"Y{name}_{start:.3f}_{end:.3f}"


AUDIOSET = Layout(
    name="audioset",
    marks=("unbalanced_train_segments.csv", "balanced_train_segments.csv"),
    kind="audiovisual",
    read=_read,
)
