"""A layout of a dataset: which lists and media files it has, and how its lists are read."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from xkd.data.sources.files import (
    ARCHIVE_SUFFIXES,
    MediaFiles,
    SourceFile,
    find_list,
    list_names,
    raise_unreadable,
    split_name,
)
from xkd.errors import UserError, nearest

Kind = Literal["audiovisual", "video", "audio"]
"""The modalities that a dataset is for. Audio is always kept; of an ``audio`` dataset nothing else is."""
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class SourceClip:
    """A clip that the annotation files list."""

    id: str
    """Unique in the dataset; names the clip's files in the shards."""
    file: SourceFile | None
    """None: it is missing."""
    place: str
    """Path from the root; of a missing file the expected one."""
    splits: tuple[str, ...]
    """Split of the clip in each fold: ``train``, ``val``, ``test`` or ``unused``."""
    labels: tuple[str, ...] = ()
    segment: tuple[float, float] | None = None
    """Start and end in the file, seconds, if the file may be the whole video; one that is not longer than the
    segment is the segment itself. None: the file is the clip."""
    exact: bool = False
    """Whether the file is known to be the whole video: the segment is cut from it whatever its length."""


@dataclass(frozen=True)
class Line:
    """A line of an annotation file, in a table with the values of its columns."""

    path: Path
    number: int
    text: str
    values: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def to_number(self, column: str, kind: type[Number]) -> Number:
        """Return a column as a finite number; as an integer, a fraction is cut off.

        Raises:
            UserError: it is not one.
        """
        try:
            value = float(self[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"{column} {self[column]!r} is not a number")
        return kind(value)

    def error(self, problem: str) -> UserError:
        """Return an error that names the file and the line."""
        return UserError(f"{self.path} line {self.number}: {problem}")

    def fields(self) -> list[str]:
        """Split the line as CSV, by itself: an unclosed quote must not swallow the lines after it."""
        try:
            return next(csv.reader([self.text], skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            raise self.error(f"invalid CSV: {error}") from None

    def check_class(self, label: str, known: Collection[str], table: str) -> None:
        """Check that a label is one of the classes that `table` lists."""
        if label not in known:
            raise self.error(f"unknown class {label}{nearest(label, known)}; {table} does not list it")


class Files(MediaFiles):
    """The files below a dataset's root."""

    def __init__(self, root: Path, layout: Layout) -> None:
        super().__init__(root)
        self.layout = layout
        self.tables: dict[str, None] = {}
        """Paths of the lists that were read."""
        self.notes: list[str] = []
        """What is different from the official lists, to be told."""

    def clip(
        self,
        name: str,
        place: str,
        splits: Iterable[str],
        *labels: str,
        names: Sequence[str] = (),
        whole: Sequence[str] = (),
        segment: tuple[float, float] | None = None,
    ) -> SourceClip:
        """Return a clip by its id and the path where its file is expected; the file may be elsewhere.

        Args:
            names: other stems that the file may have.
            whole: stems that the file may have if it is perhaps the whole video, of which the clip is the
                `segment`.
        """
        known = (split_name(place.rpartition("/")[2])[0], *names)
        fold_case = self.layout.case_insensitive
        found = self.find(place, (*known, *whole), self.layout.suffixes, fold_case=fold_case)
        stem = split_name((found or place).rpartition("/")[2])[0]
        return SourceClip(
            id=name,
            file=self.media[found] if found else None,
            place=found or place,
            splits=tuple(splits),
            labels=labels,
            segment=None if stem in known else segment,
        )

    def describe_others(self, used: Collection[str]) -> str:
        """Return which media files are not read; empty: none."""
        others = self.unused(used, self.layout.suffixes)
        return f"other files: {len(others)}, first {others[0]}" if others else ""

    def describe_found(self, used: Collection[str]) -> str:
        """Return what is there, where the file of a clip is not."""
        packed = [path for path in self.media if path.lower().endswith(ARCHIVE_SUFFIXES)]
        archives = f"compressed files to unpack: {len(packed)}, first {packed[0]}" if packed else ""
        if found := ", ".join(filter(None, (self.describe_others(used), archives))):
            return found
        others = [path for path in self.media if not split_name(path)[1] and path not in self.tables]
        return f"files that are no media: {len(others)}, first {others[0]}" if others else "no other files"

    def lacks(self, table: str) -> UserError:
        """Return an error about a list that is missing."""
        path = self.root / table
        folder = next(parent for parent in path.parents if parent.is_dir())
        names = ", ".join(list_names(folder)[:5]) or "no files"
        return UserError(f"annotation file {path} is missing; {folder} has {names}")

    def lines(self, table: str) -> Iterator[Line]:
        """Read the lines of an annotation file that are not empty.

        Raises:
            UserError: it is missing or not UTF-8 text.
        """
        path = self.root / table
        if not path.is_file():
            raise self.lacks(table)
        self.tables[table] = None
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError:
            raise UserError(
                f"annotation file {path} is not UTF-8 text; of media, give the folder or a list of files"
            ) from None
        except OSError as error:
            raise_unreadable(error)
        return (Line(path, number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())

    def rows(
        self, table: str, columns: Sequence[str], *, header: bool = True, comment: str = ""
    ) -> Iterator[Line]:
        """Read the rows of an annotation table in CSV.

        Args:
            table: path from the root.
            columns: the required columns, in the order of the fields where there is no header.
            header: whether the first line must name the columns; otherwise it may.
            comment: prefix of lines to leave out.

        Raises:
            UserError: the table, a column or a field is missing.
        """
        lines = [line for line in self.lines(table) if not comment or not line.text.startswith(comment)]
        first = lines[0] if lines else Line(self.root / table, 1, "")
        names: Sequence[str] = first.fields()
        if header or columns[0] in names:
            lines = lines[1:]
        else:
            names = columns
        if missing := [column for column in columns if column not in names]:
            raise UserError(
                f"{self.root / table} has no column {missing[0]}; its first line must name "
                f"{', '.join(columns)}, but is {first.text[:80]!r}"
            )
        needed = 1 + max(map(names.index, columns))
        for line in lines:
            fields = line.fields()
            if len(fields) < needed:
                raise line.error(f"fewer than {needed} fields")
            yield replace(line, values=dict(zip(names, fields, strict=False)))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How to recognize and read a dataset's layout."""

    name: str
    lists: tuple[str, ...] = ()
    """Patterns of the names of lists by which a root is recognized; none: it is read only by its name."""
    folders: tuple[str, ...] = ("",)
    """Patterns of the folders in which its lists may lie, the official one first."""
    kind: Kind
    suffixes: tuple[str, ...]
    """Of its media files."""
    case_insensitive: bool = True
    """Whether names of media files are found in other case; YouTube's ids are not."""
    read: Callable[[Files], Iterator[SourceClip]]
    edition: Callable[[Files, Collection[str]], str] | None = None
    """The dataset's name by its lists and classes, where several have this layout."""

    def find_list(self, root: Path, *names: str) -> str | None:
        """Return the path of the first list of one of these names, or of the layout's."""
        return find_list(root, self.folders, names or self.lists)
