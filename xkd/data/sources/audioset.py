"""AudioSet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from xkd.data.sources.files import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from xkd.data.sources.layout import Files, Layout, SourceClip


def _read(files: Files) -> Iterator[SourceClip]:
    """``{balanced_train,unbalanced_train,eval}_segments.csv``; media anywhere, named after segments.

    AudioSet has no official names of media files. Known are the segment's YouTube id alone, with a ``Y``
    before it, and with its start, or start and end, after it in seconds or milliseconds. Labels are unused.
    """
    for part, split in {"balanced_train": "train", "unbalanced_train": "train", "eval": "test"}.items():
        listed = f"{part}_segments.csv"
        if (table := files.layout.find_list(files.root, listed)) is None:
            files.notes.append(f"no {listed}")
            continue
        rows = list(files.rows(table, ("YTID", "start_seconds", "end_seconds"), header=False, comment="#"))
        header = re.search(r"num_segs=(\d+)", " ".join(line.text for line in islice(files.lines(table), 3)))
        if header and int(header[1]) != len(rows):
            files.notes.append(f"{table} lists {len(rows)} segments, of {header[1]} that its header counts")
        for row in rows:
            start, end = (row.to_number(column, float) for column in ("start_seconds", "end_seconds"))
            name = row["YTID"]
            yield files.clip(
                name,
                f"{part}_segments/{name}_{start:.0f}_{end:.0f}.mp4",
                [split],
                names=tuple(_segment_names(name, start, end)),
                whole=(name, f"Y{name}"),
                segment=(start, end),
            )


def _segment_names(name: str, start: float, end: float) -> Iterator[str]:
    """Yield the names that downloaders give the file of a segment."""
    for form, scale in (("{:.0f}", 1), ("{:06.0f}", 1), ("{:.0f}", 1000), ("{:.1f}", 1), ("{:.3f}", 1)):
        first, last = form.format(scale * start), form.format(scale * end)
        for prefix in ("", "Y"):
            yield from (f"{prefix}{name}_{first}{more}" for more in ("", f"_{last}", f"-{last}"))


AUDIOSET = Layout(
    name="audioset",
    lists=("unbalanced_train_segments.csv", "balanced_train_segments.csv", "eval_segments.csv"),
    folders=("", "csv/", "csvs/", "metadata/", "annotations/", "lists/", "data/"),
    kind="audiovisual",
    suffixes=(*VIDEO_SUFFIXES, *AUDIO_SUFFIXES),
    case_insensitive=False,
    read=_read,
)
