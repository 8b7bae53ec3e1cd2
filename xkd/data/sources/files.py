"""The files below a dataset's root: media, also inside plain tars, and the lines of annotations."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from xkd.errors import UserError


@dataclass(frozen=True)
class SourceFile:
    """A media file, by itself or as a member of a plain tar."""

    path: Path
    """The file, or the tar."""
    size: int
    offset: int | None = None
    """Where it begins in the tar."""

    def content(self) -> Path | io.BytesIO:
        """What PyAV opens: the path of a file, the bytes of a tar's member."""
        if self.offset is None:
            return self.path
        with self.path.open("rb") as tar:
            tar.seek(self.offset)
            return io.BytesIO(tar.read(self.size))


class Files:
    """The files below a root, with those inside the plain tars that lie there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def media(self) -> Mapping[str, SourceFile]:
        """Every file by its place from the root on; a tar's members are where it would unpack them.

        Raises:
            UserError: a tar is damaged.
        """
        found: dict[str, SourceFile] = {}
        for folder, below, names in os.walk(self.root, onerror=_unreadable, followlinks=True):
            below[:] = sorted(name for name in below if not _leads_back(Path(folder, name)))
            for name in sorted(names):
                path = Path(folder, name)
                if name.endswith(".tar"):
                    found |= _members(path, self.root)
                elif path.is_file():
                    found[path.relative_to(self.root).as_posix()] = SourceFile(path, path.stat().st_size)
        return found

    @cached_property
    def folders(self) -> Mapping[str, Mapping[str, SourceFile]]:
        """The files of each folder, by their names."""
        folders: dict[str, dict[str, SourceFile]] = {}
        for place, file in self.media.items():
            folder, _, name = place.rpartition("/")
            folders.setdefault(folder, {})[name] = file
        return folders

    def lines(self, place: str) -> Iterator[tuple[int, str]]:
        """The numbered lines of an annotation file that are not empty.

        Raises:
            UserError: it is missing or is no UTF-8 text.
        """
        path = self.root / place
        if not path.is_file():
            raise UserError(f"annotation file {path} is missing")
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError:
            raise UserError(f"annotation file {path} is not UTF-8 text") from None
        except OSError as error:
            _unreadable(error)
        return ((number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip())

    def rows(
        self, place: str, columns: Sequence[str], *, header: bool = True, comment: str = ""
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """The numbered rows of an annotation table in CSV; lines that begin with `comment` are none.

        Args:
            place: the table, from the root on.
            columns: those it must have; without a header they are given by position.

        Raises:
            UserError: it is missing, or a column or a field is.
        """
        path = self.root / place
        lines = ((n, line) for n, line in self.lines(place) if not comment or not line.startswith(comment))
        names = self._fields(path, *next(lines, (1, ""))) if header else columns
        missing = [column for column in columns if column not in names]
        if missing:
            raise UserError(
                f"{path} has no column {missing[0]}; its first line must name {', '.join(columns)}"
            )
        for number, line in lines:
            fields = self._fields(path, number, line)
            if len(fields) < len(columns):
                raise UserError(f"{path} line {number}: fewer than {len(columns)} fields")
            yield number, dict(zip(names, fields, strict=False))

    def _fields(self, path: Path, number: int, line: str) -> list[str]:
        """One line of CSV: a quote that is not closed must not swallow the lines behind it."""
        try:
            return next(csv.reader([line], skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            raise UserError(f"{path} line {number} is no CSV: {error}") from None


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


def _leads_back(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in, which a walk would never leave."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _members(tar: Path, root: Path) -> dict[str, SourceFile]:
    """The files in a plain tar, links to its own members among them, by their places from the root on."""
    found: dict[str, SourceFile] = {}
    try:
        with tarfile.open(tar, "r:") as opened:
            folder = tar.parent.relative_to(root)
            for member in opened:
                place = posixpath.normpath(f"{folder.as_posix()}/{member.name}")
                if member.isfile():
                    found[place] = SourceFile(tar, member.size, member.offset_data)
                elif member.islnk() or member.issym():
                    at = folder.as_posix() if member.islnk() else posixpath.dirname(place)
                    if target := found.get(posixpath.normpath(f"{at}/{member.linkname}")):
                        found[place] = target
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{tar} is no whole plain tar ({error}); fetch it again") from None
    except OSError as error:
        _unreadable(error)
    return found
