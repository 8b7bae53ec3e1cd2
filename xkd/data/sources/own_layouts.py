"""Datasets of one's own: which layout a folder or a list has, and its clips."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from xkd.data.sources.dataset import SourceDataset, hash_clips
from xkd.data.sources.files import list_names, split_name
from xkd.data.sources.folders import CLASSES, FOLDER, has_class_folders
from xkd.data.sources.layout import Files, Layout, SourceClip
from xkd.data.sources.lists import LIST, TABLE_SUFFIXES, find_lists
from xkd.data.sources.own import OwnConfig, complete
from xkd.data.sources.webdataset import WEBDATASET, has_samples
from xkd.errors import UserError

OWN_LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in (LIST, WEBDATASET, CLASSES, FOLDER)}
"""By name, in the order in which they are recognized."""


def recognize_own(root: Path) -> Layout | None:
    """Return the layout of one's own that a folder has; None: it has no media."""
    files = Files(root, FOLDER)
    found = {
        LIST.name: lambda: bool(find_lists(root)),
        WEBDATASET.name: lambda: has_samples(files),
        CLASSES.name: lambda: has_class_folders(files),
        FOLDER.name: lambda: bool(files.visible_media),
    }
    return next((layout for name, layout in OWN_LAYOUTS.items() if found[name]()), None)


def open_own(
    root: Path,
    layout: Layout,
    origin: Mapping[str, str] | None,
    *,
    forced: bool,
    allow_missing: bool,
    config: OwnConfig,
    official: Collection[str],
) -> SourceDataset:
    """List the clips of one's own files; see `xkd.data.sources.source.open_source`.

    Args:
        root: a folder or a list.
        forced: whether the layout was given, not recognized.
        official: names that it must not have.
    """
    files = Files(root if root.is_dir() else root.parent, layout)
    if root.is_file():
        files.tables[root.name] = None
    listed = list(layout.read(files))
    if not listed:
        raise UserError(f"{root} has no media files: {'; '.join(files.describe_left_out()) or 'it is empty'}")
    # Before the work starts, so that a wrong guess can be stopped.
    print(f"{root}: {_describe_own(files, listed, forced=forced)}", file=sys.stderr)
    absent = [clip for clip in listed if not clip.file]
    if absent and not (allow_missing and len(absent) < len(listed)):
        choice = ", or continue without them with --allow-missing" if len(absent) < len(listed) else ""
        raise UserError(
            f"{root}: {len(absent)} of {len(listed)} listed files are missing, first "
            f"{files.root / absent[0].place}; add them or correct the list{choice}"
        )
    if layout in (CLASSES, FOLDER) and not forced:
        names = [name for name in list_names(root) if name.lower().endswith(TABLE_SUFFIXES)]
        files.notes += [
            f"{name} is not read as a list: its first line does not name the column path" for name in names
        ]
    found = complete(files, listed, config)
    for note in files.notes:
        print(f"{root}: {note}", file=sys.stderr)
    clips = tuple(clip for clip in found.clips if clip.file)
    name = re.sub(r"[^\w-]+", "_", (root.stem if root.is_file() else root.resolve().name)).strip("_") or "own"
    return SourceDataset(
        root=root,
        name=f"{name}_{layout.name}" if name in official else name,
        revision=origin["hash"] if origin else hash_clips(clips, found.probes),
        kind=found.kind,
        clips=clips,
        missing=tuple(clip for clip in found.clips if not clip.file),
        origin=origin,
        own=found.record,
        left_out=found.left_out,
        probes=found.probes,
    )


def _describe_own(files: Files, listed: Sequence[SourceClip], *, forced: bool) -> str:
    """Return as which layout one's own files are read, and what that finds."""
    suffixes = Counter(split_name(clip.place)[1] or "other" for clip in listed)
    labels = Counter(label for clip in listed for label in clip.labels)
    splits = Counter(split for clip in listed for split in clip.splits)
    parts = [
        *files.tables,
        f"{len(listed)} files ({_count(suffixes)})",
        f"{len(labels)} classes ({_count(labels)})" if labels else "no labels",
    ]
    if splits:
        parts.append(f"splits {_count(splits)}")
    others = [name for name in OWN_LAYOUTS if name != files.layout.name]
    how, choice = "recognized", f"; --dataset {', '.join(others[:-1])} or {others[-1]} reads it differently"
    return f"{'read' if forced else how} as {files.layout.name}: {', '.join(parts)}{'' if forced else choice}"


def _count(counts: Counter[str]) -> str:
    more = ", …" if len(counts) > 4 else ""
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(4)) + more
