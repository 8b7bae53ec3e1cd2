"""The files below a dataset's root: media, also in uncompressed tars, found by their names; and lists."""

from __future__ import annotations

import fnmatch
import io
import os
import posixpath
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NoReturn

from xkd.errors import UserError

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ts"),
)
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".wma", ".aif", ".aiff")
MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES)
ARCHIVE_SUFFIXES = (".zip", ".rar", ".7z", ".tgz", ".gz", ".bz2", ".xz", ".zst")
_TITLE_AND_ID = re.compile(r"\[([\w-]{11})\]$")
"""How yt-dlp ends a name unless told otherwise."""


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
        return io.BytesIO(self.read())

    def read(self, start: int = 0, count: int | None = None) -> bytes:
        """Return `count` bytes from `start` on; None: all that follow.

        Raises:
            OSError: the file cannot be read.
        """
        left = max(0, self.size - start)
        with self.path.open("rb") as file:
            file.seek((self.offset or 0) + start)
            return file.read(left if count is None else min(left, count))


class MediaFiles:
    """The files below a root, with the members of the uncompressed tars there; the root may be such a tar."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.no_files: list[str] = []
        """Paths of links to nothing, pipes and the like, once `media` was read."""

    @cached_property
    def media(self) -> Mapping[str, SourceFile]:
        """Every file by its path from the root; a tar's members have the paths that unpacking gives them.

        Raises:
            UserError: a tar is damaged, or a folder unreadable.
        """
        if not self.root.is_dir():
            return tar_members(self.root, self.root.parent)
        found: dict[str, SourceFile] = {}
        for folder, subfolders, names in os.walk(self.root, onerror=raise_unreadable, followlinks=True):
            # A walk would never leave a link to one of its own parents.
            paths = {name: Path(folder, name).resolve() for name in sorted(subfolders)}
            subfolders[:] = [name for name in paths if not Path(folder).resolve().is_relative_to(paths[name])]
            for name in sorted(names):
                path = Path(folder, name)
                if name.lower().endswith(".tar"):
                    for place, member in tar_members(path, self.root).items():
                        # Members of several tars may have the same name: all of them are there.
                        inside = f"{path.relative_to(self.root).as_posix()}/{place}"
                        found[inside if place in found else place] = member
                elif path.is_file():
                    found[path.relative_to(self.root).as_posix()] = SourceFile(path, path.stat().st_size)
                else:
                    self.no_files.append(path.relative_to(self.root).as_posix())
        return found

    @cached_property
    def visible_media(self) -> Sequence[str]:
        """The paths of the media, in order, without hidden files and metadata that macOS adds to copies."""
        return sorted(filter(is_visible_media, self.media))

    def describe_left_out(self) -> list[str]:
        """Return a line on each kind of file that does not belong to the `visible_media`.

        Hidden files that are no media are not told: they are of tools, as those of ``.git``.
        """
        kinds: dict[str, list[str]] = {}
        for path in sorted([*self.media, *self.no_files]):
            is_medium = bool(split_name(path.rpartition("/")[2])[1])
            if _is_hidden(path):
                kind = "hidden" * is_medium
            elif path not in self.media:
                kind = "no regular files, or links to none"
            elif path.lower().endswith(ARCHIVE_SUFFIXES):
                kind = "compressed: unpack them"
            else:
                kind = "" if is_medium else "no media by name"
            kinds.setdefault(kind, []).append(path)
        return [describe_left_out(paths, kind) for kind, paths in kinds.items() if kind]

    def find(
        self, place: str, stems: Sequence[str], suffixes: Sequence[str], *, fold_case: bool = False
    ) -> str | None:
        """Return the path of a clip's file, whichever folder it lies in; None: there is none.

        Of several files, one with pictures comes before one without, and any before an empty one; then the
        order of `stems`, the folders of `place`, its name, the order of `suffixes` and short paths decide.

        Args:
            place: expected path.
            stems: names without suffixes that the file may have.
            suffixes: those of the files to look for.
            fold_case: whether to accept a name in other case if there is none in this.
        """
        folder, _, name = place.rpartition("/")
        found = [(n, path) for n, stem in enumerate(stems) for path in self._by_stem.get(stem, ())]
        if fold_case and not found:
            found = [(0, path) for stem in stems for path in self._by_folded_stem.get(stem.casefold(), ())]

        def rank(candidate: tuple[int, str]) -> tuple[object, ...]:
            number, path = candidate
            suffix, parts = split_name(path)[1], _simplify(path.rpartition("/")[0])
            in_place = len(_simplify(folder) & parts)
            # CVDF gives repaired copies of broken clips of Kinetics400 in a folder "replacement".
            original = not any(part.startswith("replacement") for part in parts)
            return (
                *(suffix not in VIDEO_SUFFIXES, not self.media[path].size, original, number),
                *(-in_place, path.rpartition("/")[2] != name),
                *(suffixes.index(suffix), path.count("/"), path),
            )

        known = [candidate for candidate in found if split_name(candidate[1])[1] in suffixes]
        return (known[0] if len(known) == 1 else min(known, key=rank))[1] if known else None

    def unused(self, used: Collection[str], suffixes: Collection[str]) -> list[str]:
        """Return the paths of media files that are neither used nor other copies of those that are."""
        stems = {split_name(path.rpartition("/")[2])[0] for path in used}
        return [
            path
            for stem, paths in self._by_stem.items()
            if stem not in stems
            for path in paths
            if path not in used and split_name(path)[1] in suffixes
        ]

    @cached_property
    def _by_stem(self) -> Mapping[str, Sequence[str]]:
        """Paths of media files by their names without suffixes, and by an id at a name's end."""
        found: dict[str, list[str]] = {}
        for path in self.media:
            stem, suffix = split_name(path.rpartition("/")[2])
            if suffix:
                found.setdefault(stem, []).append(path)
                if match := _TITLE_AND_ID.search(stem):
                    found.setdefault(match[1], []).append(path)
        return found

    @cached_property
    def _by_folded_stem(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for stem, paths in self._by_stem.items():
            found.setdefault(stem.casefold(), []).extend(paths)
        return found


def split_name(name: str) -> tuple[str, str]:
    """Divide a name into its stem and a medium's suffix in lower case; empty: it has none.

    All such suffixes are cut: youtube-dl names the file that it merges another container into ``ID.mp4.mkv``.
    """
    stem, suffix = name, ""
    while (parts := stem.rpartition("."))[0] and f".{parts[2].lower()}" in MEDIA_SUFFIXES:
        stem, suffix = parts[0], suffix or f".{parts[2].lower()}"
    return stem, suffix


def to_id(name: str) -> str:
    """Return a file's name without its suffix; dots, which end a name for WebDataset, become ``_``."""
    return split_name(name)[0].replace(".", "_")


def is_visible_media(path: str) -> bool:
    """Return whether a path is a medium's by its name, and not hidden."""
    return bool(split_name(path.rpartition("/")[2])[1]) and not _is_hidden(path)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def describe_left_out(paths: Sequence[str], reason: str) -> str:
    """Return 'left out: 2 files, REASON (first PATH)'."""
    return f"left out: {len(paths)} file{'s' * (len(paths) > 1)}, {reason} (first {printable(paths[0])})"


def printable(path: str) -> str:
    """Return a path with the bytes that are no UTF-8 as escapes: tables are UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def simplify(name: str) -> str:
    """Normalize a class: tools spell class folders differently (spaces or ``_``; ``'()`` kept or dropped)."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def find_list(root: Path, folders: Iterable[str], names: Iterable[str]) -> str | None:
    """Return the path from the root of the first list; case does not matter.

    Args:
        folders: patterns of folders in which it may lie, the empty one for the root. One that a wildcard
            matches must have no subfolders: it would be a dataset of its own.
        names: patterns of its name.
    """
    for pattern in folders:
        for folder in _find_folders(root, pattern):
            known = {name.lower(): name for name in reversed(list_names(folder))}
            for name in names:
                for match in sorted(fnmatch.filter(known, name.lower())):
                    if (path := folder / known[match]).is_file():
                        return path.relative_to(root).as_posix()
    return None


def _find_folders(root: Path, pattern: str) -> Iterator[Path]:
    """Yield the folders that match a pattern of a path."""
    first, _, rest = pattern.partition("/")
    if not first:
        yield root
        return
    for name in list_names(root):
        path = root / name
        if not fnmatch.fnmatchcase(name.lower(), first.lower()) or not path.is_dir():
            continue
        if "*" not in first or not any((path / child).is_dir() for child in list_names(path)):
            yield from _find_folders(path, rest)


def list_names(folder: Path) -> list[str]:
    """Return the sorted names in a folder; none if it cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def raise_unreadable(error: OSError) -> NoReturn:
    """Report a file or folder that cannot be read."""
    raise UserError(f"cannot read {error.filename}: {error.strerror}") from None


def tar_members(tar: Path, root: Path) -> dict[str, SourceFile]:
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
        raise UserError(
            f"{tar} is truncated or not an uncompressed tar ({error}); fetch it again or remove it"
        ) from None
    except OSError as error:
        raise_unreadable(error)
    return found


@lru_cache
def _simplify(folder: str) -> frozenset[str]:
    return frozenset(map(simplify, folder.split("/")))
