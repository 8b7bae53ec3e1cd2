"""Readers of the datasets' official layouts: a root directory becomes rows that `prepare` can decode."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xkd.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm")


@dataclass(frozen=True, kw_only=True)
class SourceClip:
    """One listed clip of a dataset as downloaded."""

    id: str
    """Unique in the dataset; names the clip's files in the shards."""
    path: Path
    split: str
    fold: int
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset as downloaded."""

    root: Path
    name: str
    revision: str
    """What the clips are: changes when the listed files, their sizes, splits or labels do."""
    has_video: bool
    clips: tuple[SourceClip, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One official layout: how to recognise it and how to read it."""

    name: str
    mark: str
    """The file that a root in this layout has."""
    has_video: bool
    read: Callable[[Path], Iterator[SourceClip]]


def open_source(root: Path) -> Source:
    """Recognise the layout of `root` and list its clips in a fixed order.

    The root of an embedded dataset (it has a dataset.json that names its layouts) is read through its
    Kinetics400 layout, the audio-visual one.

    Raises:
        UserError: the directory is missing or in no known layout; an annotation file is missing or
            damaged; a listed file is absent; a clip is listed twice.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a directory; give the root of a dataset as downloaded and unpacked")
    if (root / "dataset.json").is_file():
        return _open_embedded(root)
    for layout in LAYOUTS.values():
        if (root / layout.mark).is_file():
            clips = _list_clips(layout, root)
            return Source(
                root=root,
                name=layout.name,
                revision=_fingerprint(clips),
                has_video=layout.has_video,
                clips=clips,
            )
    marks = "; ".join(f"{layout.name} has {layout.mark}" for layout in LAYOUTS.values())
    raise UserError(f"{root} is in no known layout ({marks}, embedded has dataset.json)")


def _open_embedded(root: Path) -> Source:
    try:
        about = json.loads((root / "dataset.json").read_text())
        name, revision, folder = about["name"], about["revision"], about["layouts"]["kinetics400"]
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{root / 'dataset.json'} lacks name, revision or layouts.kinetics400; fetch the dataset again"
        ) from None
    layout = LAYOUTS["kinetics400"]
    clips = _list_clips(layout, root / folder)
    return Source(root=root, name=name, revision=revision, has_video=layout.has_video, clips=clips)


def _list_clips(layout: Layout, root: Path) -> tuple[SourceClip, ...]:
    """Read one layout and check what every layout must satisfy."""
    clips = tuple(layout.read(root))
    if not clips:
        raise UserError(f"{root / layout.mark} lists no clips")
    absent = [clip.path for clip in clips if not clip.path.is_file()]
    if absent:
        raise UserError(f"{root}: {len(absent)} of {len(clips)} listed files are absent, first {absent[0]}")
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise UserError(f"{root}: clip {clip.id} is listed twice; remove one of its rows")
        seen.add(clip.id)
    return clips


def _fingerprint(clips: tuple[SourceClip, ...]) -> str:
    """Revision of a dataset without one of its own: a hash of the listing and the files' sizes."""
    digest = hashlib.sha256()
    for clip in clips:
        row = (clip.id, clip.split, str(clip.fold), *clip.labels, str(clip.path.stat().st_size))
        digest.update("\0".join(row).encode() + b"\n")
    return digest.hexdigest()[:16]


def _rows(path: Path, columns: tuple[str, ...], header: bool = True) -> Iterator[dict[str, str]]:
    """Rows of an annotation file; `columns` are required (or, without a header, given by position)."""
    if not path.is_file():
        raise UserError(f"annotation file {path} is missing")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, None if header else columns, skipinitialspace=True)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path} has no column {missing[0]}; its first line must name {', '.join(columns)}"
            )
        for number, row in enumerate(reader, start=2 if header else 1):
            if any(row[column] is None for column in columns):
                raise UserError(f"{path} line {number}: fewer than {len(columns)} fields")
            yield row


def _number(text: str, path: Path, column: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{path}: {column} {text!r} is not a whole number") from None


def _class_key(name: str) -> str:
    """Class folders are spelled differently by tool (spaces or ``_``; ``'()`` kept or dropped)."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _read_kinetics400(root: Path) -> Iterator[SourceClip]:
    """Kinetics400: ``{train,val}.csv`` and ``{split}/{class}/{youtube_id}_{start:06d}_{end:06d}.mp4``."""
    for split in ("train", "val"):
        table = root / f"{split}.csv"
        columns = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
        rows = list(_rows(table, columns))
        if not (root / split).is_dir():
            raise UserError(
                f"{root / split} is missing; the clips of {table.name} belong there, a folder a class"
            )
        folders = {_class_key(folder.name): folder for folder in (root / split).iterdir() if folder.is_dir()}
        files = {key: {file.stem: file for file in _videos(folder)} for key, folder in folders.items()}
        for row in rows:
            start, end = (_number(row[column], table, column) for column in ("time_start", "time_end"))
            stem = f"{row['youtube_id']}_{start:06d}_{end:06d}"
            key = _class_key(row["label"])
            expected = folders.get(key, root / split / row["label"].replace(" ", "_")) / f"{stem}.mp4"
            path = files.get(key, {}).get(stem, expected)
            yield SourceClip(id=stem, path=path, split=split, fold=0, labels=(row["label"],))


def _videos(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if file.suffix.lower() in VIDEO_SUFFIXES)


def _read_esc50(root: Path) -> Iterator[SourceClip]:
    """ESC-50: ``meta/esc50.csv`` and ``audio/*.wav``; five folds, each once the test set."""
    table = root / "meta" / "esc50.csv"
    for row in _rows(table, ("filename", "fold", "target", "category", "esc10", "src_file", "take")):
        yield SourceClip(
            id=row["filename"].removesuffix(".wav"),
            path=root / "audio" / row["filename"],
            split="all",
            fold=_number(row["fold"], table, "fold"),
            labels=(row["category"],),
        )


def _read_fsd50k(root: Path) -> Iterator[SourceClip]:
    """FSD50K: ``FSD50K.ground_truth/{dev,eval,vocabulary}.csv``; dev is train and val, eval is test."""
    truth = root / "FSD50K.ground_truth"
    vocabulary = {
        row["label"] for row in _rows(truth / "vocabulary.csv", ("index", "label", "mid"), header=False)
    }
    for part, columns in (
        ("dev", ("fname", "labels", "mids", "split")),
        ("eval", ("fname", "labels", "mids")),
    ):
        table = truth / f"{part}.csv"
        for row in _rows(table, columns):
            labels = tuple(row["labels"].split(","))
            unknown = [label for label in labels if label not in vocabulary]
            if unknown:
                raise UserError(f"{table}: label {unknown[0]} of {row['fname']} is not in vocabulary.csv")
            yield SourceClip(
                id=row["fname"],
                path=root / f"FSD50K.{part}_audio" / f"{row['fname']}.wav",
                split=row["split"] if part == "dev" else "test",
                fold=0,
                labels=labels,
            )


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(name="kinetics400", mark="train.csv", has_video=True, read=_read_kinetics400),
        Layout(name="esc50", mark="meta/esc50.csv", has_video=False, read=_read_esc50),
        Layout(name="fsd50k", mark="FSD50K.ground_truth/dev.csv", has_video=False, read=_read_fsd50k),
    )
}
