"""A dataset as downloaded and unpacked, or of one's own: its clips and its revision."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from xkd.data.sources.audioset import AUDIOSET
from xkd.data.sources.dataset import SourceDataset, hash_clips
from xkd.data.sources.files import MediaFiles, split_name
from xkd.data.sources.kinetics import KINETICS
from xkd.data.sources.layout import Files, Layout
from xkd.data.sources.lists import LIST, is_media_list
from xkd.data.sources.own import OwnConfig
from xkd.data.sources.own_layouts import OWN_LAYOUTS, open_own, recognize_own
from xkd.data.sources.sound import ESC50, FSD50K
from xkd.data.sources.ucf_hmdb import HMDB51, UCF101
from xkd.errors import UserError, nearest
from xkd.io import find_json
from xkd.output import require_finished

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout for layout in (*KINETICS, AUDIOSET, UCF101, HMDB51, ESC50, FSD50K)
}
"""The official layouts, by name; docs/data.md describes where each dataset comes from."""
OFFICIAL = (*LAYOUTS, "embedded")
"""Names of datasets that none of one's own may have."""
DESCRIPTION = "dataset.json"
"""At the root of the embedded dataset: its name, revision and layouts."""
FETCHED = "fetched.json"
"""At the root of a dataset that `xkd.data.fetch.registry` fetched: its origin."""


def open_source(
    root: Path, name: str = "", *, allow_missing: bool = False, config: OwnConfig | None = None
) -> SourceDataset:
    """List the clips of the dataset at `root` in a fixed order.

    The root of an embedded dataset (it has a dataset.json that names its layouts) is read through its
    Kinetics400 layout, the audio-visual one, unless `name` is another of them.

    Args:
        root: the dataset as downloaded and unpacked, where media may stay in uncompressed tars; or one's own:
            a folder, or a list, whose paths count from its folder.
        name: layout to read; empty: the one whose marks are there.
        config: how a dataset of one's own is cut and split.

    What was read as what, and how it differs from the official dataset, is written to stderr.

    Raises:
        UserError: the directory is missing or in another layout; an annotation file is missing or
            damaged; a listed file is missing; a clip is listed twice; a fetched dataset is unfinished or
            was changed.
    """
    if not root.is_dir() and not (root.is_file() and name in ("", LIST.name)):
        raise UserError(
            f"{root} is not a directory; use the root of a dataset as downloaded and unpacked, or a folder "
            "or list of media"
        )
    if (root / "manifest.csv").is_file():
        raise UserError(f"{root} is already prepared; pass it to xkd pretrain or xkd evaluate as --data")
    if name and name not in (known := [*LAYOUTS, *OWN_LAYOUTS]):
        hint = nearest(name, known)
        raise UserError(f"dataset: unknown layout {name}{hint}; available: {', '.join(known)}")
    origin, embedded = _read_origin(root), None
    if name not in OWN_LAYOUTS:
        embedded = _read_record(root / DESCRIPTION, "name", "revision", "layouts")
    layout = LAYOUTS.get(name or "kinetics400" * bool(embedded)) or OWN_LAYOUTS.get(name) or _recognize(root)
    if layout.name in OWN_LAYOUTS:
        return open_own(
            root,
            layout,
            origin,
            forced=bool(name),
            allow_missing=allow_missing,
            config=config or OwnConfig(),
            official=OFFICIAL,
        )
    return _open_official(root, name, layout, origin, embedded, allow_missing=allow_missing)


def _open_official(
    root: Path,
    name: str,
    layout: Layout,
    origin: Mapping[str, str] | None,
    embedded: Mapping[str, Any] | None,
    *,
    allow_missing: bool,
) -> SourceDataset:
    """List the clips of an official dataset, or of a layout of the embedded one; see `open_source`."""
    files = Files(root, layout)
    if embedded:
        if layout.name not in (folders := embedded["layouts"]):
            raise UserError(f"{root / DESCRIPTION} has no layout {layout.name}; it has {', '.join(folders)}")
        files = Files(root / folders[layout.name], layout)
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
    source = SourceDataset(
        root=root,
        name=embedded["name"] if embedded and not name else known,
        revision=embedded["revision"] if embedded else origin["hash"] if origin else hash_clips(clips),
        kind=layout.kind,
        clips=clips,
        missing=tuple(clip for clip in listed if not clip.file),
        origin=origin,
    )
    _report(files, source, allow_missing=allow_missing)
    return source


def _report(files: Files, source: SourceDataset, *, allow_missing: bool) -> None:
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
    """Return the official layout whose lists `root` has, else the one of one's own that its files have."""
    if root.is_file():
        return LIST

    def find(folder: Path) -> Layout | None:
        # Kinetics last: its list has the least special name, which lists of one's own may have too.
        for layout in reversed([layout for layout in LAYOUTS.values() if layout.lists]):
            table = layout.find_list(folder)
            if table and not (layout in KINETICS and is_media_list(folder / table)):
                return layout
        return None

    if layout := find(root):
        return layout
    for folder in (root.parent, *sorted(root.iterdir())):
        if folder.is_dir() and find(folder):
            raise UserError(
                f"{root} is not the root of a dataset; did you mean {folder}? To read all media in it, use "
                "--dataset folder"
            )
    if own := recognize_own(root):
        return own
    lists = (
        f"{name} has {known.folders[0]}{known.lists[0]}" for name, known in LAYOUTS.items() if known.lists
    )
    found = "; ".join(MediaFiles(root).describe_left_out()) or "it is empty"
    raise UserError(f"{root} has no media files ({found}) and no known layout ({'; '.join(lists)})")


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
