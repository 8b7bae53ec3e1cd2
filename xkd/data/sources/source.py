"""A dataset as downloaded and unpacked: its clips and its revision."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xkd.data.sources.audioset import AUDIOSET
from xkd.data.sources.files import split_name
from xkd.data.sources.kinetics import KINETICS
from xkd.data.sources.layout import Files, Kind, Layout, SourceClip
from xkd.data.sources.sound import ESC50, FSD50K
from xkd.data.sources.ucf_hmdb import HMDB51, UCF101
from xkd.errors import UserError, nearest
from xkd.io import find_json, require_finished

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout for layout in (*KINETICS, AUDIOSET, UCF101, HMDB51, ESC50, FSD50K)
}
"""The known layouts, by name; docs/data.md describes where each dataset comes from."""
DESCRIPTION = "dataset.json"
"""At the root of the embedded dataset: its name, revision and layouts."""
FETCHED = "fetched.json"
"""At the root of a dataset that `xkd.data.fetch.registry` fetched: its origin."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset as downloaded."""

    root: Path
    name: str
    revision: str
    """Identifies the clips: changes when the listed files, their sizes, splits or labels do."""
    kind: Kind
    clips: tuple[SourceClip, ...]
    """Clips whose files exist."""
    missing: tuple[SourceClip, ...] = ()
    """Clips whose files do not."""
    origin: Mapping[str, str] | None = None
    """Of a dataset fetched from a registry: its ``repo``, the commit ``rev`` and DVC's ``hash``."""

    def describe_missing(self) -> str:
        """Return '3 of 30 listed files are missing (by class: Archery 2, Bowling 1)', most affected first."""
        labels = (label for clip in self.missing for label in clip.labels or ("no label",))
        classes = [f"{label} {count}" for label, count in Counter(labels).most_common()]
        more = f", and {len(classes) - 5} more" if len(classes) > 5 else ""
        listed = len(self.clips) + len(self.missing)
        shown = f"{', '.join(classes[:5])}{more}"
        return f"{len(self.missing)} of {listed} listed files are missing (by class: {shown})"


def open_source(root: Path, name: str = "", *, allow_missing: bool = False) -> Source:
    """List the clips of the dataset at `root` in a fixed order.

    The root of an embedded dataset (it has a dataset.json that names its layouts) is read through its
    Kinetics400 layout, the audio-visual one, unless `name` is another of them.

    Args:
        root: the dataset as downloaded and unpacked; media may stay in uncompressed tars.
        name: layout to read; empty: the one whose marks are there.

    What was read as what, and how it differs from the official dataset, is written to stderr.

    Raises:
        UserError: the directory is missing or in another layout; an annotation file is missing or
            damaged; a listed file is missing; a clip is listed twice; a fetched dataset is unfinished or
            was changed.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a directory; use the root of a dataset as downloaded and unpacked")
    if name and name not in LAYOUTS:
        hint = nearest(name, LAYOUTS)
        raise UserError(f"dataset: unknown layout {name}{hint}; available: {', '.join(LAYOUTS)}")
    if (root / "manifest.csv").is_file():
        raise UserError(f"{root} is already prepared; pass it to xkd pretrain or xkd evaluate as --data")
    origin = _read_origin(root)
    embedded = _read_record(root / DESCRIPTION, "name", "revision", "layouts")
    if embedded:
        layout, folders = LAYOUTS[name or "kinetics400"], embedded["layouts"]
        if layout.name not in folders:
            raise UserError(f"{root / DESCRIPTION} has no layout {layout.name}; it has {', '.join(folders)}")
        files = Files(root / folders[layout.name], layout)
    else:
        layout = LAYOUTS[name] if name else _recognize(root)
        files = Files(root, layout)
    listed = list(layout.read(files))
    if not listed:
        raise UserError(f"{files.root}: {layout.name} lists no clips; fetch its annotation files again")
    counts = Counter(clip.id for clip in listed)
    if repeated := [clip for clip in listed if counts[clip.id] > 1]:
        first = f"clip {repeated[0].id} ({repeated[0].place})"
        raise UserError(f"{files.root}: {first} is listed twice; remove one of its rows")
    clips = tuple(clip for clip in listed if clip.file)
    known = layout.name
    if layout.edition and not name:
        known = layout.edition(files, {label for clip in listed for label in clip.labels})
    source = Source(
        root=root,
        name=embedded["name"] if embedded and not name else known,
        revision=embedded["revision"] if embedded else origin["hash"] if origin else _hash_clips(clips),
        kind=layout.kind,
        clips=clips,
        missing=tuple(clip for clip in listed if not clip.file),
        origin=origin,
    )
    _report(files, source, allow_missing=allow_missing)
    return source


def _report(files: Files, source: Source, *, allow_missing: bool) -> None:
    """Write to stderr what was read, and how it differs from the official dataset.

    Raises:
        UserError: a file is missing, and may not be or all are.
    """
    used = {clip.place for clip in source.clips}
    if source.missing and not (allow_missing and used):
        found = files.describe_found(used)
        choice = ", or continue without them with --allow-missing" if used else ""
        raise UserError(
            f"{source.root}: {source.describe_missing()}, first {files.root / source.missing[0].place}; "
            f"looked for this name in every folder and tar, found {found}; add them{choice}"
        )
    notes = (_describe_used(files, source.name, used), *files.notes, files.describe_others(used))
    for note in filter(None, notes):
        print(f"{files.root}: {note}", file=sys.stderr)


def _describe_used(files: Files, name: str, used: Collection[str]) -> str:
    """Return as what, and from which lists and folders, a dataset was read."""
    lists = [*files.tables]
    if len(lists) > 3:
        lists = [f"{folder or '.'}/*" for folder in dict.fromkeys(map(os.path.dirname, lists))]
    kinds = Counter((path.split("/")[0] if "/" in path else ".", split_name(path)[1]) for path in used)
    media = [f"{count} {suffix} in {folder}" for (folder, suffix), count in kinds.most_common()]
    more = ", …" if len(media) > 4 else ""
    return f"read as {name}: {', '.join(lists)}; {', '.join(media[:4])}{more}"


def _read_record(path: Path, *keys: str) -> dict[str, Any] | None:
    """Return a JSON object that must have these keys, None when there is no file."""
    values = find_json(path)
    if values is not None and (lacking := [key for key in keys if key not in values]):
        raise UserError(f"{path} has no {lacking[0]}; fetch the dataset again")
    return values


def _recognize(root: Path) -> Layout:
    """Return the layout whose lists `root` has."""

    def find(folder: Path) -> Layout | None:
        # Kinetics last: its list has the least special name.
        known = (layout for layout in reversed([*LAYOUTS.values()]) if layout.lists)
        return next((layout for layout in known if layout.find_list(folder)), None)

    if layout := find(root):
        return layout
    for folder in (root.parent, *sorted(root.iterdir())):
        if folder.is_dir() and find(folder):
            raise UserError(f"{root} is not the root of a dataset; did you mean {folder}?")
    lists = (
        f"{name} has {known.folders[0]}{known.lists[0]}" for name, known in LAYOUTS.items() if known.lists
    )
    found = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    raise UserError(f"{root} has no known layout ({'; '.join(lists)}); it has {found}")


def _read_origin(root: Path) -> Mapping[str, str] | None:
    """Return the origin of a fetched dataset after checking that it is unchanged."""
    require_finished(root)
    record = root / FETCHED
    if (fetched := _read_record(record, "repo", "rev", "hash", "files", "bytes")) is None:
        return None
    paths = [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    sizes = [path.stat().st_size for path in paths if path != record]
    if (len(sizes), sum(sizes)) != (fetched["files"], fetched["bytes"]):
        raise UserError(
            f"{root} was changed after it was fetched ({len(sizes)} files of {sum(sizes)} bytes, expected "
            f"{fetched['files']} of {fetched['bytes']}); rerun the same xkd fetch to repair it"
        )
    return {key: str(fetched[key]) for key in ("repo", "rev", "hash")}


def _hash_clips(clips: Sequence[SourceClip]) -> str:
    """Return a revision from the listing and the sizes of the files."""
    digest = hashlib.sha256()
    for clip in clips:
        size = str(clip.file.size if clip.file else 0)
        row = (clip.id, *clip.splits, *clip.labels, size, *map(str, clip.segment or ()))
        digest.update("\0".join(row).encode() + b"\n")
    return digest.hexdigest()[:16]
