"""Lists of one's own: tables with a column path, or lines of a path and labels (mmaction2, VideoMAE)."""

from __future__ import annotations

import csv
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from xkd.data.sources.files import MEDIA_SUFFIXES, SourceFile, list_names
from xkd.data.sources.folders import SPLITS, find_split
from xkd.data.sources.layout import Files, Layout, Line, SourceClip
from xkd.errors import UserError, nearest

TABLE_SUFFIXES = (".csv", ".tsv")
_SUFFIXES = (*TABLE_SUFFIXES, ".txt")
_MEDIA = "|".join(re.escape(suffix) for suffix in MEDIA_SUFFIXES)
_PATH_AND_LABELS = re.compile(rf"""(["']?)(.*(?:{_MEDIA}))\1(?:\s*[\s,;]\s*(.*))?""", re.IGNORECASE)
"""A line of mmaction2 or VideoMAE; a path may have spaces."""
_COLUMNS = ("path", "start", "end", "split")
_TIMES = ("start", "end")


def find_lists(root: Path) -> list[str]:
    """Return the names of the lists of media in a folder."""
    names = [name for name in list_names(root) if name.lower().endswith(_SUFFIXES)]
    return [name for name in names if is_media_list(root / name)]


def is_media_list(path: Path) -> bool:
    """Return whether the first line of a list names a column path, or begins with the path of a medium."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line.strip() for line in file if line.strip()), "")
    except (OSError, UnicodeDecodeError):
        return False
    return "path" in _split(first, _delimiter(first)) or bool(_PATH_AND_LABELS.fullmatch(first))


def _read(files: Files) -> Iterator[SourceClip]:
    """All lists in the folder, or the one that was given; a list's name may tell the split."""
    names = list(files.tables) or find_lists(files.root)
    if not names:
        raise UserError(
            f"{files.root} has no list: a .csv, .tsv or .txt whose first line names the column path, or "
            "whose lines have a path and a label"
        )
    named = [find_split(name) for name in names] if len(names) > 1 else [""]
    if not all(named) and len(names) > 1:
        raise UserError(
            f"{files.root} has several lists ({', '.join(names[:5])}); give one of them, or name them train, "
            "val and test"
        )
    seen: dict[tuple[object, ...], Line] = {}
    rows = [(line, split) for name, split in zip(names, named, strict=True) for line in _rows(files, name)]
    with_split = [bool(line.values.get("split") or split) for line, split in rows]
    for (line, split), has_split in zip(rows, with_split, strict=True):
        if not has_split and any(with_split):
            raise line.error(
                "the split is empty, but other rows have one; expected train, val, test or unused"
            )
        clip = _clip(files, line, split)
        first = seen.setdefault((clip.place, clip.segment), line)
        if first is not line:
            where = (
                f"line {first.number}"
                if first.path == line.path
                else f"{first.path.name} line {first.number}"
            )
            raise line.error(f"{clip.place} is listed twice, also in {where}; remove one of the rows")
        yield clip


def _rows(files: Files, name: str) -> Iterator[Line]:
    """Yield the rows of a list with their values by column; labels are those of all columns of labels."""
    lines = list(files.lines(name))
    if not lines:
        raise UserError(f"{files.root / name} is empty; list a path on each line")
    delimiter = _delimiter(lines[0].text)
    columns = [column.strip().lower() for column in _split(lines[0].text, delimiter)]
    if "path" not in columns:
        if not _PATH_AND_LABELS.fullmatch(lines[0].text):
            raise UserError(
                f"{files.root / name} has no column path: its first line must name path and may name start, "
                f"end, label and split (or each line has a path and labels), but is {lines[0].text[:80]!r}"
            )
        yield from map(_path_and_labels, lines)
        return
    labels = [column for column in columns if re.fullmatch(r"labels?[ _-]?\w*", column)]
    for column in set(columns) - {*_COLUMNS, *labels}:
        if hint := nearest(column, (*_COLUMNS, "label")):
            raise UserError(f"{files.root / name} has a column {column}{hint}; rename it")
        files.notes.append(f"{name}: column {column} is not read")
    for line in lines[1:]:
        fields = [field.strip() for field in _split(line.text, delimiter, line)]
        if len(fields) != len(columns):
            raise line.error(f"{len(fields)} fields, but the first line names {len(columns)} columns")
        values = dict(zip(columns, fields, strict=True))
        values["labels"] = ";".join(values[column] for column in labels)
        yield replace(line, values=values)


def _path_and_labels(line: Line) -> Line:
    """Return a line of mmaction2 or VideoMAE with its values."""
    if (match := _PATH_AND_LABELS.fullmatch(line.text)) is None:
        raise line.error(f"expected a path and a label, found {line.text[:80]!r}")
    labels = re.split(r"[\s,;]+", match[3] or "")
    if len(labels) > 1 and not all(label.isdecimal() for label in labels):
        raise line.error("more than a path and a label: name the columns in the first line (path,label,…)")
    return replace(line, values={"path": match[2], "labels": ";".join(labels)})


def _clip(files: Files, line: Line, split: str) -> SourceClip:
    """Return the clip of a row; its file may be missing."""
    given = line.values.get("split", "")
    if given and given.lower() not in (*SPLITS, "unused"):
        raise line.error(f"expected split train, val, test or unused, found {given!r}")
    own = SPLITS.get(given.lower(), given.lower()) or split
    place = _place(files, line)
    path = files.root / place
    labels = dict.fromkeys(label.strip() for label in line["labels"].split(";"))
    return SourceClip(
        id="",
        file=SourceFile(path, path.stat().st_size) if path.is_file() else None,
        place=place,
        splits=(own,) if own else (),
        labels=tuple(filter(None, labels)),
        segment=_segment(line),
    )


def _place(files: Files, line: Line) -> str:
    """Return a row's path from the list's folder.

    Raises:
        UserError: it is empty or outside.
    """
    path = line["path"]
    if not path:
        raise line.error("the path is empty")
    if Path(path).is_absolute():
        path = os.path.relpath(path, files.root.absolute())
    place = posixpath.normpath(path)
    if place == ".." or place.startswith("../"):
        folder = files.root.absolute()
        raise line.error(
            f"{line['path']} is outside of {folder}; move the list to a folder with all files below"
        )
    return place


def _segment(line: Line) -> tuple[float, float] | None:
    start, end = (line.to_number(name, float) if line.values.get(name) else None for name in _TIMES)
    if start is None and end is None:
        return None
    start, end = start or 0.0, float("inf") if end is None else end
    if not 0 <= start < end:
        raise line.error(f"expected 0 <= start < end, found start {start:g} and end {end:g}")
    return start, end


def _delimiter(header: str) -> str:
    return next((mark for mark in "\t;" if mark in header), ",")


def _split(text: str, delimiter: str, line: Line | None = None) -> Sequence[str]:
    """Split a line by itself: an unclosed quote must not swallow the lines after it."""
    try:
        return next(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        if line is None:
            return []
        raise line.error(f"invalid CSV: {error}") from None


LIST = Layout(name="list", kind="audiovisual", suffixes=MEDIA_SUFFIXES, read=_read)
