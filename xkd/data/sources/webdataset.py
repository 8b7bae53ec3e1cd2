"""WebDataset: tars in which files whose names agree up to the first dot are a sample."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from xkd.data.sources.files import (
    MEDIA_SUFFIXES,
    VIDEO_SUFFIXES,
    SourceFile,
    describe_left_out,
    is_visible_media,
    split_name,
    tar_members,
)
from xkd.data.sources.folders import find_split
from xkd.data.sources.layout import Files, Layout, SourceClip
from xkd.errors import UserError

_LABELS = ("cls", "json", "txt")
"""Extensions of the files with a sample's labels; the first that has some counts."""
_JSON_KEYS = ("label", "labels", "cls", "class")
Sample = dict[str, tuple[str, SourceFile]]
"""A sample's files by extension: the path in the tar, and the file."""


def has_samples(files: Files) -> bool:
    """Return whether the first tar with media has labels of them."""
    for tar in _find_tars(files):
        if samples := _read_samples(tar):
            return any(sample.keys() & set(_LABELS) for sample in samples)
    return False


def _read(files: Files) -> Iterator[SourceClip]:
    """Samples of media with an optional ``.cls``, ``.json`` or ``.txt``; names of tars may tell the split."""
    tars = {tar.relative_to(files.root).as_posix(): _read_samples(tar) for tar in _find_tars(files)}
    splits = {tar: find_split(tar) for tar, samples in tars.items() if samples}
    others: list[str] = []
    clips = []
    for tar, samples in tars.items():
        for sample in samples:
            (path, file), *more = _media_of(sample)
            others += [f"{tar}/{other}" for other, _ in more]
            clips.append((tar, f"{tar}/{path}", file, sample))
    labels = [_labels_of(sample) for *_, sample in clips]
    counts = Counter(label for found in labels for label in found)
    if len(clips) > 1 and counts and max(counts.values()) == 1:
        files.notes.append(
            f"no label of {len(counts)} occurs twice: they are read as captions, not as labels"
        )
        labels = [() for _ in clips]
    loose = [path for path in files.visible_media if files.media[path].offset is None]
    for reason, left_out in {"not the first medium of a sample": others, "in no tar": loose}.items():
        if left_out:
            files.notes.append(describe_left_out(left_out, reason))
    for (tar, place, file, _), found in zip(clips, labels, strict=True):
        split = (splits[tar],) if all(splits.values()) else ()
        yield SourceClip(id="", file=file, place=place, splits=split, labels=found)


def _find_tars(files: Files) -> list[Path]:
    paths = sorted(files.root.rglob("*"))
    return [path for path in paths if path.suffix.lower() == ".tar" and not path.name.startswith(".")]


def _read_samples(tar: Path) -> list[Sample]:
    """Return the samples of a tar that have media, in order."""
    found: dict[str, Sample] = defaultdict(dict)
    for path, file in tar_members(tar, tar.parent).items():
        folder, _, name = path.rpartition("/")
        key, _, extension = name.partition(".")
        found[f"{folder}/{key}"][extension.lower()] = (path, file)
    return [sample for sample in found.values() if _media_of(sample)]


def _media_of(sample: Sample) -> list[tuple[str, SourceFile]]:
    """Return a sample's media, those with pictures first."""
    media = [(path, file) for path, file in sample.values() if is_visible_media(path)]
    return sorted(media, key=lambda item: (split_name(item[0])[1] not in VIDEO_SUFFIXES, item[0]))


def _labels_of(sample: Sample) -> tuple[str, ...]:
    """Return a sample's labels.

    Raises:
        UserError: a file of labels is damaged.
    """
    for extension in _LABELS:
        if extension not in sample:
            continue
        path, file = sample[extension]
        try:
            text = file.read().decode()
            values = _of_json(json.loads(text)) if extension == "json" else text.split("\n")
        except ValueError as error:
            raise UserError(f"{file.path}: {path} is damaged ({error}); repair or remove it") from None
        if labels := tuple(dict.fromkeys(filter(None, (str(value).strip() for value in values)))):
            if bad := [label for label in labels if ";" in label]:
                raise UserError(f"{file.path}: {path} has the label {bad[0]!r}; replace its semicolon")
            return labels
    return ()


def _of_json(values: object) -> Sequence[object]:
    """Return the labels in a JSON object: a name, a number or a list of them."""
    if not isinstance(values, dict):
        return ()
    found = next((values[key] for key in _JSON_KEYS if values.get(key) is not None), ())
    return found if isinstance(found, list | tuple) else (found,)


WEBDATASET = Layout(name="webdataset", kind="audiovisual", suffixes=MEDIA_SUFFIXES, read=_read)
