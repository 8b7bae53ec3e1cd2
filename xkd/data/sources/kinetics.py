"""Kinetics400 and Kinetics-Sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xkd.data.sources.layout import Files, Layout, SourceClip
from xkd.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm")
KINETICS_SOUND = tuple(Path(__file__).with_name("kinetics_sound.txt").read_text().splitlines())
"""The classes of Kinetics400 that make up Kinetics-Sound."""


def _read_kinetics400(files: Files) -> Iterator[SourceClip]:
    """``{train,val}.csv`` and ``{split}/{class}/{youtube_id}_{start:06d}_{end:06d}.mp4``."""
    columns = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
    classes: set[str] = set()
    for split in ("train", "val"):
        renamed = split == "val" and (files.root / "validate.csv").is_file()
        table = "validate.csv" if renamed else f"{split}.csv"
        rows = list(files.rows(table, columns))
        inside = (folder for folder in files.folders if folder.startswith(f"{split}/"))
        folders = {_class_key(folder.removeprefix(f"{split}/")): folder for folder in inside}
        if rows and not folders:
            raise UserError(
                f"{files.root / split} is missing or has no folders; put the clips of {table} there, one "
                "folder per class"
            )
        for row in rows:
            label = row["label"]
            if split == "train":
                classes.add(label)
            else:
                row.check_class(label, classes, "train.csv")
            start, end = (row.to_number(column, int) for column in ("time_start", "time_end"))
            stem = f"{row['youtube_id']}_{start:06d}_{end:06d}"
            folder = folders.get(_class_key(label), f"{split}/{label.replace(' ', '_')}")
            places = [f"{folder}/{stem}{suffix}" for suffix in VIDEO_SUFFIXES]
            place = next((place for place in places if place in files.media), places[0])
            yield files.clip(stem, place, [split], label)


def _read_kinetics_sound(files: Files) -> Iterator[SourceClip]:
    """The clips of Kinetics400 whose class is one of `KINETICS_SOUND`."""
    clips = [clip for clip in _read_kinetics400(files) if clip.labels[0] in KINETICS_SOUND]
    if missing := sorted(set(KINETICS_SOUND) - {clip.labels[0] for clip in clips}):
        raise UserError(
            f"{files.root} lists no clip of {len(missing)} of the {len(KINETICS_SOUND)} Kinetics-Sound "
            f"classes ({', '.join(missing[:3])}, …); use the whole Kinetics400"
        )
    yield from clips


def _class_key(name: str) -> str:
    """Normalize a class: tools spell class folders differently (spaces or ``_``; ``'()`` kept or dropped)."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


KINETICS = (
    Layout(name="kinetics400", marks=("train.csv",), kind="audiovisual", read=_read_kinetics400),
    Layout(name="kinetics_sound", marks=(), kind="audiovisual", read=_read_kinetics_sound),
)
