"""Datasets of one's own: files that no official list names, cut into clips and split by their content."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from xkd.config.overrides import STRICT
from xkd.config.types import Fraction, Seed
from xkd.data.media.damage import MediaError
from xkd.data.media.header import Header, read_header
from xkd.data.sources.files import SourceFile, printable, to_id
from xkd.data.sources.layout import Files, Kind, SourceClip
from xkd.data.sources.own_notes import COPY, general_reason, note_content
from xkd.io import one_line, short_hash
from xkd.parallel.limits import cores
from xkd.progress import progress

_BLOCK = 2**16
"""Bytes at the beginning, in the middle and at the end of a file by which it is recognized."""


@settings(frozen=True, kw_only=True, config=STRICT)
class OwnConfig:
    """How files of one's own become clips and splits; official datasets have theirs."""

    segment_seconds: float = Field(default=10.0, ge=1)
    """Longer videos are cut into segments of this length."""
    split_seed: Seed = 0
    """Of the draw that splits the files."""
    test_share: Fraction = 0.2
    """Share of the files to test on, where `folds` is 1."""
    folds: int = Field(default=1, ge=1)
    """Number of folds, in each of which another part of the files is the test split; 1: one fixed split."""


@dataclass(frozen=True, kw_only=True)
class OwnClips:
    """The clips of a dataset of one's own, and how they were found."""

    kind: Kind
    clips: tuple[SourceClip, ...]
    left_out: tuple[tuple[str, str], ...]
    """Files that are no clips, each with the reason."""
    probes: Mapping[str, Probe]
    """Of each file by its place."""
    record: Mapping[str, Any]
    """How they were split and cut, for dataset.json."""


@dataclass(frozen=True)
class Probe:
    """What is known of a file without decoding it."""

    fingerprint: str
    header: Header | None
    """None: it cannot be opened."""
    problem: str = ""
    """Why not."""


def complete(files: Files, listed: Sequence[SourceClip], config: OwnConfig) -> OwnClips:
    """Return the clips of listed files: those of several files of equal content once, cut and split.

    Args:
        listed: what the layout found, without ids; with their splits if it has splits.

    What was left out is noted in `files.notes`.

    Raises:
        UserError: no file is left in split train.
    """
    probes = probe(files.root.name, {clip.place: clip.file for clip in listed if clip.file})
    known = {place: found.header for place, found in probes.items() if found.header}
    kind = _kind(known.values())
    left_out = _find_copies(listed, probes)
    if kind != "audio":
        left_out |= {place: "sound without video" for place, header in known.items() if not header.video}
    kept = [clip for clip in listed if clip.place not in left_out]
    for clip in [clip for clip in kept if _begins_late(clip, known.get(clip.place))]:
        kept.remove(clip)
        left_out[f"{clip.place} from {(clip.segment or (0,))[0]:g} s"] = "begins behind the end of the file"
    clips = []
    for clip in kept:
        parts = _cut(clip, known.get(clip.place), config.segment_seconds)
        content = probes[clip.place].fingerprint if clip.file else clip.place
        splits = clip.splits or draw_splits(content, config)
        clips += [replace(part, splits=splits) for part in parts]
    ids = _name(clips)
    clips = [replace(clip, id=ids[clip.place] + _name_segment(clip)) for clip in clips]
    note_content(files, clips, known, left_out)
    by_content = {"by": "content", "seed": config.split_seed}
    by_content |= {"folds": config.folds} if config.folds > 1 else {"test_share": config.test_share}
    return OwnClips(
        kind=kind,
        clips=tuple(clips),
        left_out=tuple((printable(place), printable(reason)) for place, reason in left_out.items()),
        probes=probes,
        record={
            "layout": files.layout.name,
            "split": {"by": files.layout.name} if any(clip.splits for clip in listed) else by_content,
            "cut": {
                "segment_seconds": config.segment_seconds,
                "rest": "less than half a segment belongs to the one before",
                "files": len({clip.place for clip in clips if clip.exact}),
            },
            "files": len({clip.place for clip in clips}),
            "left_out": dict(Counter(map(general_reason, left_out.values()))),
        },
    )


def draw_splits(content: str, config: OwnConfig) -> tuple[str, ...]:
    """Return the split in each fold by a seed and what identifies the content: no name, no other file."""
    text = f"{config.split_seed} {content}"
    drawn = int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13
    if config.folds == 1:
        return ("test" if drawn < config.test_share else "train",)
    return tuple("test" if fold == int(drawn * config.folds) else "train" for fold in range(config.folds))


def probe(name: str, paths: Mapping[str, SourceFile]) -> dict[str, Probe]:
    """Read the headers of files, and the blocks that tell them apart, in threads."""

    def read(file: SourceFile) -> Probe:
        content = f"{file.path} {file.offset}"
        try:
            content = fingerprint(file)
            return Probe(content, read_header(file.content()))
        except (MediaError, OSError) as error:
            return Probe(content, None, one_line(error))

    with (
        progress(f"reading headers of {name}", len(paths)) as bar,
        ThreadPoolExecutor(2 * cores()) as pool,
    ):
        found = {}
        for place, result in zip(paths, pool.map(read, paths.values()), strict=True):
            found[place] = result
            bar.advance()
    return found


def fingerprint(file: SourceFile) -> str:
    """Return a hash of a file's size and of three of its blocks.

    Raises:
        OSError: it cannot be read.
    """
    starts = sorted({0, max(0, file.size // 2 - _BLOCK // 2), max(0, file.size - _BLOCK)})
    blocks = [file.read(start, _BLOCK) for start in starts]
    return hashlib.sha256(b"".join([b"%d\0" % file.size, *blocks])).hexdigest()


def _kind(headers: Iterable[Header]) -> Kind:
    """Return the modalities of files: of sound alone, and videos alone where none has sound."""
    videos = [header for header in headers if header.video]
    if not videos and any(True for _ in headers):
        return "audio"
    return "video" if videos and not any(header.audio for header in videos) else "audiovisual"


def _find_copies(listed: Sequence[SourceClip], probes: Mapping[str, Probe]) -> dict[str, str]:
    """Return the files whose content an earlier one has, each with the reason to leave it out."""
    alike: dict[str, dict[str, SourceFile]] = defaultdict(dict)
    for clip in listed:
        if clip.file and clip.file.size:
            alike[probes[clip.place].fingerprint][clip.place] = clip.file
    copies = {}
    for places in alike.values():
        seen: dict[str, str] = {}
        for place, file in places.items() if len(places) > 1 else ():
            # Blocks that agree are only a hint, unless they are all of the file.
            content = _hash(file) if file.size > 3 * _BLOCK else ""
            if (first := seen.setdefault(content, place)) != place:
                copies[place] = f"{COPY}{first}"
    return copies


def _hash(file: SourceFile) -> str:
    digest = hashlib.sha256()
    for start in range(0, file.size, 2**24):
        digest.update(file.read(start, 2**24))
    return digest.hexdigest()


def _begins_late(clip: SourceClip, header: Header | None) -> bool:
    return bool(clip.segment and header and 0 < header.seconds <= clip.segment[0])


def _cut(clip: SourceClip, header: Header | None, seconds: float) -> list[SourceClip]:
    """Return the segments of a clip; a rest of less than half a segment belongs to the one before it."""
    first, last = clip.segment or (0.0, math.inf)
    if header and header.seconds:
        last = min(last, math.ceil(1000 * header.seconds) / 1000)
    if not math.isfinite(last):  # nothing tells the end
        last = first + seconds
    count = math.floor((last - first) / seconds + 0.5)
    if count <= 1:
        return [replace(clip, segment=(first, last), exact=True) if clip.segment else clip]
    starts = [first + number * seconds for number in range(count)]
    bounds = zip(starts, [*starts[1:], last], strict=True)
    return [replace(clip, segment=pair, exact=True) for pair in bounds]


def _name(clips: Iterable[SourceClip]) -> dict[str, str]:
    """Return a unique name of each file: its own, or its path where several have this name."""
    places = dict.fromkeys(clip.place for clip in clips)
    names: dict[str, str] = {}
    for name in (_stem, _path, _path_and_hash):
        left = [place for place in places if place not in names]
        counts, taken = Counter(map(name, left)), set(names.values())
        names |= {p: name(p) for p in left if counts[name(p)] == 1 and name(p) not in taken}
    return names


def _name_segment(clip: SourceClip) -> str:
    """Return the end of a segment's id: where it starts and ends, in milliseconds."""
    times = clip.segment if clip.exact and clip.segment else ()
    return "".join(f"_{round(1000 * time):08d}" for time in times)


def _stem(place: str) -> str:
    return to_id(printable(place.rpartition("/")[2]))


def _path(place: str) -> str:
    return to_id(printable(place)).replace("/", "_")


def _path_and_hash(place: str) -> str:
    return f"{_path(place)}_{short_hash(place)}"
