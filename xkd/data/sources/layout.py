"""An official layout of a dataset: its media, also in uncompressed tars, and annotation files."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

from xkd.errors import UserError, nearest

Kind = Literal["audiovisual", "video", "audio"]
"""The modalities that a dataset is for. Audio is always kept; of an ``audio`` dataset nothing else is."""
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class SourceFile:
    """A media file, or a member of an uncompressed tar."""

    path: Path
    """The file, or the tar."""
    size: int
    offset: int | None = None
    """First byte in the tar."""

    def content(self) -> Path | io.BytesIO:
        """Return what PyAV opens: the path of a file, the bytes of a tar's member."""
        if self.offset is None:
            return self.path
        with self.path.open("rb") as tar:
            tar.seek(self.offset)
            return io.BytesIO(tar.read(self.size))


@dataclass(frozen=True, kw_only=True)
class SourceClip:
    """A clip that the annotation files list."""

    id: str
    """Unique in the dataset; names the clip's files in the shards."""
    file: SourceFile | None
    """None: it is missing."""
    place: str
    """Expected path from the root."""
    splits: tuple[str, ...]
    """Split of the clip in each fold: ``train``, ``val``, ``test`` or ``unused``."""
    labels: tuple[str, ...] = ()
    segment: tuple[float, float] | None = None
    """Start and end in the file, seconds, if the file may be the whole video; one that is not longer than the
    segment is the segment itself. None: the file is the clip."""


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
        """Return a column as an integer or a float.

        Raises:
            UserError: it is not one.
        """
        try:
            return kind(self[column])
        except ValueError:
            problem = "an integer" if kind is int else "a number"
            raise self.error(f"{column} {self[column]!r} is not {problem}") from None

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


class Files:
    """The files below a root, with the members of the uncompressed tars there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def media(self) -> Mapping[str, SourceFile]:
        """Every file by its path from the root; a tar's members have the paths that unpacking gives them.

        Raises:
            UserError: a tar is damaged, or a folder unreadable.
        """
        found: dict[str, SourceFile] = {}
        for folder, subfolders, names in os.walk(self.root, onerror=_raise_unreadable, followlinks=True):
            # A walk would never leave a link to one of its own parents.
            paths = {name: Path(folder, name).resolve() for name in sorted(subfolders)}
            subfolders[:] = [name for name in paths if not Path(folder).resolve().is_relative_to(paths[name])]
            for name in sorted(names):
                path = Path(folder, name)
                if name.endswith(".tar"):
                    found |= _tar_members(path, self.root)
                elif path.is_file():
                    found[path.relative_to(self.root).as_posix()] = SourceFile(path, path.stat().st_size)
        return found

    @cached_property
    def folders(self) -> Collection[str]:
        """The folders with files, in the order of `media`."""
        return dict.fromkeys(place.rpartition("/")[0] for place in self.media)

    def clip(self, name: str, place: str, splits: Iterable[str], *labels: str) -> SourceClip:
        """Return a clip by its id and the path where its file is expected."""
        return SourceClip(
            id=name, file=self.media.get(place), place=place, splits=tuple(splits), labels=labels
        )

    def lines(self, table: str) -> Iterator[Line]:
        """Read the lines of an annotation file that are not empty.

        Raises:
            UserError: it is missing or not UTF-8 text.
        """
        path = self.root / table
        if not path.is_file():
            raise UserError(f"annotation file {path} is missing")
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError:
            raise UserError(f"annotation file {path} is not UTF-8 text") from None
        except OSError as error:
            _raise_unreadable(error)
        return (Line(path, number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())

    def rows(
        self, table: str, columns: Sequence[str], *, header: bool = True, comment: str = ""
    ) -> Iterator[Line]:
        """Read the rows of an annotation table in CSV.

        Args:
            table: path from the root.
            columns: the required columns, in the order of the fields where there is no header.
            header: whether the first line names the columns.
            comment: prefix of lines to leave out.

        Raises:
            UserError: the table, a column or a field is missing.
        """
        lines = (line for line in self.lines(table) if not comment or not line.text.startswith(comment))
        names = next(lines, Line(self.root / table, 1, "")).fields() if header else columns
        if missing := [column for column in columns if column not in names]:
            required = ", ".join(columns)
            raise UserError(
                f"{self.root / table} has no column {missing[0]}; its first line must name {required}"
            )
        for line in lines:
            fields = line.fields()
            if len(fields) < len(columns):
                raise line.error(f"fewer than {len(columns)} fields")
            yield replace(line, values=dict(zip(names, fields, strict=False)))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How to recognize and read a dataset's official layout."""

    name: str
    marks: tuple[str, ...]
    """Files or folders of which a root in this layout has one; none: it is read only by its name."""
    kind: Kind
    read: Callable[[Files], Iterator[SourceClip]]


def _raise_unreadable(error: OSError) -> NoReturn:
    raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


def _tar_members(tar: Path, root: Path) -> dict[str, SourceFile]:
    """Return the files in an uncompressed tar, and links to them, by their paths from the root."""
    found: dict[str, SourceFile] = {}
    folder = tar.parent.relative_to(root).as_posix()
    try:
        with tarfile.open(tar, "r:") as opened:
            for member in opened:
                place = posixpath.normpath(f"{folder}/{member.name}")
                if member.isfile():
                    found[place] = SourceFile(tar, member.size, member.offset_data)
                elif member.islnk() or member.issym():
                    base = folder if member.islnk() else posixpath.dirname(place)
                    if target := found.get(posixpath.normpath(f"{base}/{member.linkname}")):
                        found[place] = target
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{tar} is truncated or not an uncompressed tar ({error}); fetch it again") from None
    except OSError as error:
        _raise_unreadable(error)
    return found


def to_id(name: str) -> str:
    """Return a file's name without its suffix; dots, which end a name for WebDataset, become ``_``."""
    return name.rpartition(".")[0].replace(".", "_")
