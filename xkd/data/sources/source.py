"""A dataset as downloaded and unpacked: its clips, and what stands for its revision."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xkd.data.sources.files import Files, SourceFile
from xkd.errors import UserError, nearest

DESCRIPTION = "dataset.json"
"""At the root of the embedded dataset: its name, revision and layouts."""
FETCHED = "fetched.json"
"""At the root of a dataset that `xkd.data.fetch.registry` fetched: where from."""
_CLASSES_TOLD = 5
"""Classes that a message about absent files names."""

Kind = Literal["audiovisual", "video", "audio"]
"""What a dataset is for. Audio is kept wherever there is any; of an ``audio`` dataset nothing else is."""


@dataclass(frozen=True, kw_only=True)
class SourceClip:
    """One listed clip."""

    id: str
    """Unique in the dataset; names the clip's files in the shards."""
    file: SourceFile | None
    """None: it is listed, and absent."""
    place: str
    """Where it is, or would be, from the root on."""
    splits: tuple[str, ...]
    """What the clip is for in each fold: ``train``, ``val``, ``test`` or ``unused``."""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One dataset's official layout: how to recognise it and how to read it."""

    name: str
    marks: tuple[str, ...]
    """Files or folders of which a root in this layout has one; none: it is read only when it is named."""
    kind: Kind
    read: Callable[[Files], Iterator[SourceClip]]

    def is_at(self, root: Path) -> bool:
        """Whether `root` has one of the marks."""
        return any((root / mark).exists() for mark in self.marks)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset as downloaded."""

    root: Path
    name: str
    revision: str
    """What the clips are: changes when the listed files, their sizes, splits or labels do."""
    kind: Kind
    clips: tuple[SourceClip, ...]
    """Those whose files are there."""
    absent: tuple[SourceClip, ...] = ()
    """Those whose files are not."""
    origin: Mapping[str, str] | None = None
    """Of a dataset fetched from a registry: its ``repo``, the commit ``rev`` and DVC's ``hash``."""


def open_source(
    root: Path, layouts: Mapping[str, Layout], name: str = "", *, allow_missing: bool = False
) -> Source:
    """List the clips of the dataset at `root` in a fixed order.

    The root of an embedded dataset (it has a dataset.json that names its layouts) is read through its
    Kinetics400 layout, the audio-visual one, unless `name` is another of them.

    Args:
        root: the dataset as downloaded and unpacked; media may stay in plain tars.
        layouts: the known ones, by name.
        name: which one to read; empty: the one whose marks are there.
        allow_missing: whether listed files may be absent.

    Raises:
        UserError: the directory is missing or in another layout; an annotation file is missing or
            damaged; a listed file is absent; a clip is listed twice; a fetched dataset was changed.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a directory; give the root of a dataset as downloaded and unpacked")
    if name and name not in layouts:
        raise UserError(f"dataset: no {name}{nearest(name, layouts)}; known are {', '.join(layouts)}")
    if (root / "manifest.csv").is_file():
        raise UserError(f"{root} is prepared already; give it to xkd pretrain or xkd evaluate as --data")
    origin = _origin(root)
    about = _Description.read(root)
    layout = layouts[name or "kinetics400"] if about else layouts[name] if name else _recognize(root, layouts)
    files = Files(root / about.folder(layout.name) if about else root)
    clips = _listed(layout, files)
    there = tuple(clip for clip in clips if clip.file)
    absent = tuple(clip for clip in clips if not clip.file)
    if absent and not (allow_missing and there):
        raise UserError(
            f"{root}: {tell_absent(absent, len(clips))}, first {files.root / absent[0].place}; complete them"
            + (", or go on without them by --allow-missing" if there else "")
        )
    return Source(
        root=root,
        name=about.name if about and not name else layout.name,
        revision=about.revision if about else origin["hash"] if origin else _fingerprint(there),
        kind=layout.kind,
        clips=there,
        absent=absent,
        origin=origin,
    )


def tell_absent(absent: Sequence[SourceClip], listed: int) -> str:
    """'3 of 30 listed files are absent (by class: Archery 2, Bowling 1)', the most affected classes first."""
    classes = Counter(label for clip in absent for label in clip.labels or ("no label",)).most_common()
    told = ", ".join(f"{label} {count}" for label, count in classes[:_CLASSES_TOLD])
    more = f", and {len(classes) - _CLASSES_TOLD} more" if len(classes) > _CLASSES_TOLD else ""
    return f"{len(absent)} of {listed} listed files are absent (by class: {told}{more})"


@dataclass(frozen=True)
class _Description:
    """What an embedded dataset says of itself."""

    path: Path
    name: str
    revision: str
    layouts: Mapping[str, str]

    @classmethod
    def read(cls, root: Path) -> _Description | None:
        path = root / DESCRIPTION
        if not path.is_file():
            return None
        try:
            about = json.loads(path.read_text())
            return cls(path, about["name"], about["revision"], dict(about["layouts"]))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path} lacks name, revision or layouts; fetch the dataset again") from None

    def folder(self, layout: str) -> str:
        if layout not in self.layouts:
            raise UserError(f"{self.path} names no layout {layout}; it has {', '.join(self.layouts)}")
        return self.layouts[layout]


def _recognize(root: Path, layouts: Mapping[str, Layout]) -> Layout:
    for layout in layouts.values():
        if layout.is_at(root):
            return layout
    near = (
        folder
        for folder in (root.parent, *sorted(root.iterdir()))
        if folder.is_dir() and any(layout.is_at(folder) for layout in layouts.values())
    )
    if found := next(near, None):
        raise UserError(f"{root} is not the root of a dataset; did you mean {found}?")
    marks = "; ".join(
        f"{name} has {' or '.join(layout.marks)}" for name, layout in layouts.items() if layout.marks
    )
    raise UserError(f"{root} is in no known layout ({marks})")


def _listed(layout: Layout, files: Files) -> tuple[SourceClip, ...]:
    """Read one layout and check what every layout must satisfy."""
    clips = tuple(layout.read(files))
    if not clips:
        raise UserError(f"{files.root}: {layout.name} lists no clips; fetch its annotation files again")
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise UserError(
                f"{files.root}: clip {clip.id} ({clip.place}) is listed twice; remove one of its rows"
            )
        seen.add(clip.id)
    return clips


def _origin(root: Path) -> Mapping[str, str] | None:
    """Where a fetched dataset came from, if it is still what was fetched."""
    path = root / FETCHED
    if path.with_name(f"{FETCHED}.partial").is_file():
        raise UserError(f"{root} was not fetched to its end; give the same xkd fetch again")
    if not path.is_file():
        return None
    try:
        fetched = json.loads(path.read_text())
        origin = {key: str(fetched[key]) for key in ("repo", "rev", "hash")}
        expected = (fetched["files"], fetched["bytes"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged; fetch the dataset again") from None
    sizes = [Path(folder, name).stat().st_size for folder, _, names in os.walk(root) for name in names]
    found = (len(sizes) - 1, sum(sizes) - path.stat().st_size)
    if found != expected:
        raise UserError(
            f"{root} was changed after it was fetched ({found[0]} files of {found[1]} bytes, not "
            f"{expected[0]} of {expected[1]}); the same xkd fetch again repairs it"
        )
    return origin


def _fingerprint(clips: Sequence[SourceClip]) -> str:
    """Revision of a dataset without one of its own: a hash of the listing and the files' sizes."""
    digest = hashlib.sha256()
    for clip in clips:
        assert clip.file is not None
        row = (clip.id, *clip.splits, *clip.labels, str(clip.file.size))
        digest.update("\0".join(row).encode() + b"\n")
    return digest.hexdigest()[:16]
