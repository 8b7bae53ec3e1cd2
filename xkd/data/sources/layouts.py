"""Readers of the seven datasets' official layouts: annotation files become clips that `prepare` can decode.

docs/data.md shows where each comes from.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from xkd.data.sources.files import Files, SourceFile
from xkd.data.sources.source import Layout, Source, SourceClip
from xkd.data.sources.source import open_source as _open
from xkd.errors import UserError, nearest

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm")
_MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, ".m4a", ".wav", ".flac", ".ogg")

KINETICS_SOUND = (
    "blowing nose",
    "blowing out candles",
    "bowling",
    "chopping wood",
    "dribbling basketball",
    "laughing",
    "mowing lawn",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "stomping grapes",
    "strumming guitar",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
)
"""The classes of Kinetics400 that make Kinetics-Sound."""


def open_source(root: Path, name: str = "", *, allow_missing: bool = False) -> Source:
    """`xkd.data.sources.source.open_source` with the layouts of this module."""
    return _open(root, LAYOUTS, name, allow_missing=allow_missing)


def _kinetics400(files: Files) -> Iterator[SourceClip]:
    """``{train,val}.csv`` and ``{split}/{class}/{youtube_id}_{start:06d}_{end:06d}.mp4``."""
    columns = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
    classes: set[str] = set()
    for split in ("train", "val"):
        table = (
            "validate.csv" if split == "val" and (files.root / "validate.csv").is_file() else f"{split}.csv"
        )
        rows = list(files.rows(table, columns))
        folders = _class_folders(files, split)
        if rows and not folders:
            raise UserError(
                f"{files.root / split} is missing or has no folders; "
                f"the clips of {table} belong there, a folder a class"
            )
        for number, row in rows:
            where = f"{files.root / table} line {number}"
            start, end = (_number(row[column], where, column) for column in ("time_start", "time_end"))
            stem = f"{row['youtube_id']}_{start:06d}_{end:06d}"
            folder = folders.get(_class_key(row["label"]), f"{split}/{row['label'].replace(' ', '_')}")
            place, file = _with_suffix(files, folder, stem, VIDEO_SUFFIXES)
            if split == "train":
                classes.add(row["label"])
            else:
                _check_class(row["label"], classes, where, "train.csv")
            yield SourceClip(id=stem, file=file, place=place, splits=(split,), labels=(row["label"],))


def _kinetics_sound(files: Files) -> Iterator[SourceClip]:
    """The clips of Kinetics400 whose class is one of `KINETICS_SOUND`."""
    clips = [clip for clip in _kinetics400(files) if clip.labels[0] in KINETICS_SOUND]
    lacking = sorted(set(KINETICS_SOUND) - {clip.labels[0] for clip in clips})
    if lacking:
        raise UserError(
            f"{files.root} lists no clip of {len(lacking)} of Kinetics-Sound's {len(KINETICS_SOUND)} classes "
            f"({', '.join(lacking[:3])}, …); give the whole Kinetics400"
        )
    yield from clips


def _audioset(files: Files) -> Iterator[SourceClip]:
    """``{balanced_train,unbalanced_train,eval}_segments.csv``; media anywhere, named after segments.

    AudioSet has no official names of media files. Known are the segment's YouTube id alone, with a ``Y``
    before it, and with its start, or start and end, behind it in seconds or milliseconds. Labels are unused.
    """
    stems: dict[str, str] = {}
    for place in files.media:
        stem, _, suffix = place.rpartition("/")[2].rpartition(".")
        if f".{suffix.lower()}" in _MEDIA_SUFFIXES:
            stems.setdefault(stem, place)
    tables = {"balanced_train": "train", "unbalanced_train": "train", "eval": "test"}
    for part, split in tables.items():
        table = f"{part}_segments.csv"
        if not (files.root / table).is_file():
            print(f"{files.root} has no {table}; going on without", file=sys.stderr)
            continue
        _check_complete(files, table)
        columns = ("YTID", "start_seconds", "end_seconds", "positive_labels")
        for number, row in files.rows(table, columns, header=False, comment="#"):
            where = f"{files.root / table} line {number}"
            start, end = (_seconds(row[column], where, column) for column in ("start_seconds", "end_seconds"))
            names = _segment_names(row["YTID"], start, end)
            place = next(
                (stems[name] for name in names if name in stems), f"{part}_segments/{row['YTID']}.mp4"
            )
            yield SourceClip(id=row["YTID"], file=files.media.get(place), place=place, splits=(split,))


def _check_complete(files: Files, table: str) -> None:
    """Hold a list of segments against the number that its head tells."""
    lines = [line for _, line in files.lines(table)]
    told = next((found[1] for line in lines[:3] if (found := re.search(r"num_segs=(\d+)", line))), None)
    listed = sum(not line.startswith("#") for line in lines)
    if told and int(told) != listed:
        path = files.root / table
        raise UserError(f"{path} lists {listed} segments, not {told} as its head says; fetch it again")


def _segment_names(name: str, start: float, end: float) -> Iterator[str]:
    """What files of a segment are called in downloads."""
    yield from (name, f"Y{name}")
    whole, last = round(start), round(end)
    for first, behind in ((f"{whole}", f"{last}"), (f"{whole:06d}", f"{last:06d}")):
        yield from (f"{name}_{first}", f"{name}_{first}_{behind}")
    yield from (f"{name}_{1000 * start:.0f}", f"{name}_{1000 * start:.0f}_{1000 * end:.0f}")
    yield from (f"{name}_{start:.3f}", f"{name}_{start:.3f}_{end:.3f}", f"Y{name}_{start:.3f}_{end:.3f}")


def _ucf101(files: Files) -> Iterator[SourceClip]:
    """``UCF-101/{class}/*.avi``, ``ucfTrainTestlist/{classInd,trainlist0?,testlist0?}.txt``; three splits."""
    lists = "ucfTrainTestlist"
    classes = {line.split()[-1] for _, line in files.lines(f"{lists}/classInd.txt")}
    splits: dict[str, list[str]] = {}
    for fold in range(3):
        for split in ("train", "test"):
            table = f"{lists}/{split}list0{fold + 1}.txt"
            lines = list(files.lines(table))
            if not lines:
                raise UserError(f"{files.root / table} is empty; fetch it again")
            for number, line in lines:
                # The folder tells the class: HandstandPushups holds files called HandStandPushups.
                place, where = line.split()[0], f"{files.root / table} line {number}"
                _check_class(place.split("/")[0], classes, where, "classInd.txt")
                _assign(splits.setdefault(place, ["unused"] * 3), fold, split, f"{where}: {place}")
    for place, roles in sorted(splits.items()):
        path = f"UCF-101/{place}"
        label, _, name = place.rpartition("/")
        yield SourceClip(
            id=_stem(name), file=files.media.get(path), place=path, splits=tuple(roles), labels=(label,)
        )


def _hmdb51(files: Files) -> Iterator[SourceClip]:
    """``HMDB-51/{class}/*.avi`` and ``testTrainMulti_7030_splits/{class}_test_split?.txt``; three splits."""
    lists = "testTrainMulti_7030_splits"
    tables = sorted(path.name for path in (files.root / lists).glob("*_test_split?.txt"))
    classes = sorted({table.rpartition("_test_split")[0] for table in tables})
    for folder in files.folders:
        label = folder.removeprefix("HMDB-51/")
        if label != folder and label not in classes:
            raise UserError(
                f"{files.root / folder}: unknown class {label}; {lists} has no {label}_test_split1.txt"
            )
    tags = {"1": "train", "2": "test", "0": "unused"}
    for label in classes:
        splits: dict[str, list[str]] = {}
        for fold in range(3):
            table = f"{lists}/{label}_test_split{fold + 1}.txt"
            for number, line in files.lines(table):
                name, _, tag = line.rpartition(" ")
                where = f"{files.root / table} line {number}"
                if tag not in tags:
                    raise UserError(f"{where}: {tag!r} is none of 1 (train), 2 (test) and 0 (unused)")
                _assign(splits.setdefault(name.strip(), ["unused"] * 3), fold, tags[tag], f"{where}: {name}")
        for name, roles in sorted(splits.items()):
            place = f"HMDB-51/{label}/{name}"
            yield SourceClip(
                id=_stem(name), file=files.media.get(place), place=place, splits=tuple(roles), labels=(label,)
            )


def _esc50(files: Files) -> Iterator[SourceClip]:
    """``meta/esc50.csv`` and ``audio/*.wav``; five folds, each once the test set."""
    table, folds = "meta/esc50.csv", 5
    classes: dict[str, str] = {}
    columns = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    for number, row in files.rows(table, columns):
        where = f"{files.root / table} line {number}"
        fold, label = _number(row["fold"], where, "fold"), row["category"]
        if not 1 <= fold <= folds:
            raise UserError(f"{where}: fold {fold} is none of 1 to {folds}")
        if classes.setdefault(row["target"], label) != label:
            raise UserError(
                f"{where}: unknown class {label}; target {row['target']} was {classes[row['target']]} before"
            )
        place = f"audio/{row['filename']}"
        yield SourceClip(
            id=_stem(row["filename"]),
            file=files.media.get(place),
            place=place,
            splits=tuple("test" if part == fold else "train" for part in range(1, folds + 1)),
            labels=(label,),
        )


def _fsd50k(files: Files) -> Iterator[SourceClip]:
    """``FSD50K.ground_truth/{dev,eval,vocabulary}.csv``; dev is train and val, eval is test; many labels."""
    truth = "FSD50K.ground_truth"
    vocabulary = {
        row["label"]
        for _, row in files.rows(f"{truth}/vocabulary.csv", ("index", "label", "mid"), header=False)
    }
    for part, columns in (
        ("dev", ("fname", "labels", "mids", "split")),
        ("eval", ("fname", "labels", "mids")),
    ):
        table = f"{truth}/{part}.csv"
        for number, row in files.rows(table, columns):
            where = f"{files.root / table} line {number}"
            labels = tuple(row["labels"].split(","))
            for label in labels:
                _check_class(label, vocabulary, where, "vocabulary.csv")
            split = row["split"] if part == "dev" else "test"
            if split not in ("train", "val", "test"):
                raise UserError(f"{where}: split {split!r} is neither train nor val")
            place = f"FSD50K.{part}_audio/{row['fname']}.wav"
            yield SourceClip(
                id=row["fname"], file=files.media.get(place), place=place, splits=(split,), labels=labels
            )


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            Layout(name="kinetics400", marks=("train.csv",), kind="audiovisual", read=_kinetics400),
            Layout(name="kinetics_sound", marks=(), kind="audiovisual", read=_kinetics_sound),
            Layout(
                name="audioset",
                marks=("unbalanced_train_segments.csv", "balanced_train_segments.csv"),
                kind="audiovisual",
                read=_audioset,
            ),
            Layout(name="ucf101", marks=("ucfTrainTestlist/classInd.txt",), kind="video", read=_ucf101),
            Layout(name="hmdb51", marks=("testTrainMulti_7030_splits",), kind="video", read=_hmdb51),
            Layout(name="esc50", marks=("meta/esc50.csv",), kind="audio", read=_esc50),
            Layout(name="fsd50k", marks=("FSD50K.ground_truth/dev.csv",), kind="audio", read=_fsd50k),
        )
    }
)


def _class_key(name: str) -> str:
    """Class folders are spelled differently by tool (spaces or ``_``; ``'()`` kept or dropped)."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _class_folders(files: Files, split: str) -> dict[str, str]:
    return {
        _class_key(folder.removeprefix(f"{split}/")): folder
        for folder in files.folders
        if folder.startswith(f"{split}/")
    }


def _with_suffix(
    files: Files, folder: str, stem: str, suffixes: tuple[str, ...]
) -> tuple[str, SourceFile | None]:
    """The place and the file of that stem, whatever of the suffixes it has; they come in many containers."""
    names = files.folders.get(folder, {})
    suffix = next((suffix for suffix in suffixes if stem + suffix in names), suffixes[0])
    return f"{folder}/{stem}{suffix}", names.get(stem + suffix)


def _assign(roles: list[str], fold: int, role: str, where: str) -> None:
    """What a clip is for in a fold, which may be said once."""
    if roles[fold] != "unused":
        raise UserError(f"{where} is {role} and {roles[fold]} in split {fold + 1}; remove one of the rows")
    roles[fold] = role


def _check_class(label: str, known: set[str], where: str, listed: str) -> None:
    if label not in known:
        raise UserError(f"{where}: unknown class {label}{nearest(label, known)}; {listed} does not list it")


def _number(text: str, where: str, column: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{where}: {column} {text!r} is not a whole number") from None


def _seconds(text: str, where: str, column: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where}: {column} {text!r} is not a number") from None


def _stem(name: str) -> str:
    """A file's name without its suffix; dots, which end a sample's name for WebDataset, become ``_``."""
    return name.rpartition(".")[0].replace(".", "_")
