"""Folders of one's own: any folder of media, and a folder per class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from xkd.data.sources.files import MEDIA_SUFFIXES
from xkd.data.sources.layout import Files, Layout, SourceClip
from xkd.errors import UserError

SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
"""Names of splits, as folders, lists and tars have them."""
_SPLIT_IN_NAME = re.compile(f"(?:^|[^a-z])({'|'.join(SPLITS)})(?:[^a-z]|$)")


def find_split(name: str) -> str:
    """Return the split that the name of a list or a tar has a word for; empty: none."""
    match = _SPLIT_IN_NAME.search(name.lower())
    return SPLITS[match[1]] if match else ""


def has_class_folders(files: Files) -> bool:
    """Return whether every file is in CLASS/ or SPLIT/CLASS/, and there are several of several classes."""
    depth = _split_depth(files)
    paths = [path.split("/")[depth:] for path in files.visible_media]
    classes = {path[0] for path in paths}
    return all(len(path) == 2 for path in paths) and 2 <= len(classes) <= len(paths) // 2


def _split_depth(files: Files) -> int:
    """Return 1 if each folder in the root is named like a split and holds all the media, otherwise 0."""
    return int(all(path.split("/")[0].lower() in SPLITS and "/" in path for path in files.visible_media))


def _clips(files: Files, labels: Mapping[str, str]) -> Iterator[SourceClip]:
    """Yield a clip of each file, with the split that its first folder names where all of them do."""
    files.notes += files.describe_left_out()
    depth = _split_depth(files)
    for path in files.visible_media:
        split = (SPLITS[path.split("/")[0].lower()],) if depth else ()
        label = (labels[path],) if path in labels else ()
        yield SourceClip(id="", file=files.media[path], place=path, splits=split, labels=label)


def _read_folder(files: Files) -> Iterator[SourceClip]:
    """Media in any folders, without labels."""
    yield from _clips(files, {})


def _read_classes(files: Files) -> Iterator[SourceClip]:
    """``{class}/…`` or ``{split}/{class}/…``: the folder is the label."""
    depth = _split_depth(files)
    labels = {path: path.split("/")[depth] for path in files.visible_media}
    for path, label in labels.items():
        if path.count("/") <= depth:
            raise UserError(f"{files.root / path} is in no class's folder; move it, or use --dataset folder")
        if ";" in label:
            raise UserError(
                f"{files.root}: class {label!r} has a semicolon, which separates labels; rename it"
            )
    yield from _clips(files, labels)


FOLDER = Layout(name="folder", kind="audiovisual", suffixes=MEDIA_SUFFIXES, read=_read_folder)
CLASSES = Layout(name="classes", kind="audiovisual", suffixes=MEDIA_SUFFIXES, read=_read_classes)
