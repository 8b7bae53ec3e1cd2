"""Kinetics400, 600 and 700, and Kinetics-Sound."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from xkd.data.sources.files import VIDEO_SUFFIXES
from xkd.data.sources.layout import Files, Layout, SourceClip
from xkd.errors import UserError

KINETICS_SOUND = tuple(Path(__file__).with_name("kinetics_sound.txt").read_text().splitlines())
"""The classes of Kinetics400 that make up Kinetics-Sound."""
_NAMES = {"train": ("train",), "val": ("validate", "val", "validation", "valid")}
_LISTS = {
    split: tuple(
        f"{edition}{name}.csv" for name in names for edition in ("", "kinetics*[-_]", "k[467]00*[-_]")
    )
    for split, names in _NAMES.items()
}
"""DeepMind, CVDF, mmaction2 and ActivityNet call them ``train.csv`` and ``validate.csv``, ``val.csv``,
``kinetics_val.csv`` and ``kinetics-600_val.csv``; the first archives ``kinetics_600_val.csv``."""


def _read_kinetics(files: Files) -> Iterator[SourceClip]:
    """Lists of a split each, and ``{split}/{class}/{youtube_id}_{start:06d}_{end:06d}.mp4``."""
    classes: set[str] = set()
    unknown: Counter[str] = Counter()
    tables = {split: files.layout.find_list(files.root, *names) for split, names in _LISTS.items()}
    for split, table in tables.items():
        if split == "val" and not table:
            files.notes.append(f"no list of the split val ({', '.join(_LISTS['val'][::3])})")
            continue
        for row in files.rows(table or "train.csv", ("label", "youtube_id", "time_start", "time_end")):
            label, name = row["label"], row["youtube_id"]
            if split == "train":
                classes.add(label)
            elif label not in classes:
                unknown[label] += 1
                continue
            start, end = (row.to_number(column, int) for column in ("time_start", "time_end"))
            stem = f"{name}_{start:06d}_{end:06d}"
            yield files.clip(
                stem,
                f"{split}/{label.replace(' ', '_')}/{stem}.mp4",
                [split],
                label,
                names=(f"{name}_{start}_{end}",),
                whole=(name,),
                segment=(start, end),
            )
    if unknown:
        files.notes.append(
            f"{tables['val']} lists classes that {tables['train']} does not; left out: {unknown.total()} "
            f"clips of {len(unknown)} classes ({', '.join([*unknown][:3])})"
        )


def _read_kinetics_sound(files: Files) -> Iterator[SourceClip]:
    """The clips of Kinetics400 whose class is one of `KINETICS_SOUND`."""
    clips = [clip for clip in _read_kinetics(files) if clip.labels[0] in KINETICS_SOUND]
    if not clips:
        raise UserError(f"{files.root} lists no clip of Kinetics-Sound's classes; use the whole Kinetics400")
    if missing := sorted(set(KINETICS_SOUND) - {clip.labels[0] for clip in clips}):
        first = ", ".join(missing[:3])
        files.notes.append(f"no clip of {len(missing)} of the {len(KINETICS_SOUND)} classes ({first})")
    yield from clips


def _edition(files: Files, classes: Collection[str]) -> str:
    """Return which Kinetics this is: as its lists or root are named, but no smaller than its classes."""
    names = " ".join((*files.tables, files.root.resolve().name)).lower()
    named = re.search("(?:kinetics|k)[-_]?([467]00)", names)
    counted = next(size for size in (400, 600, 700) if len(classes) <= size or size == 700)
    return f"kinetics{max(counted, int(named[1]) if named else 0)}"


_layout = partial(
    Layout,
    folders=("", "annotations/", "annotation/", "lists/", "kinetics*/", "annotations/kinetics*/"),
    kind="audiovisual",
    suffixes=VIDEO_SUFFIXES,
    case_insensitive=False,
)
KINETICS = (
    _layout(name="kinetics400", lists=_LISTS["train"], read=_read_kinetics, edition=_edition),
    _layout(name="kinetics600", read=_read_kinetics),
    _layout(name="kinetics700", read=_read_kinetics),
    _layout(name="kinetics_sound", read=_read_kinetics_sound),
)
