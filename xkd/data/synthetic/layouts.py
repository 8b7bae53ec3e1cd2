"""The official layouts that both the embedded dataset and the miniatures are written in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from xkd.data.synthetic.files import File, MediaFile, make_table
from xkd.data.synthetic.plan import Plan
from xkd.data.synthetic.scenes import SECONDS

_KINETICS = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
_ESC50 = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
_FSD50K = ("fname", "labels", "mids", "split")
_TRUTH = "FSD50K.ground_truth"


def kinetics_clip(
    split: str, label: str, plan: Plan, *, start: int = 0, end: int = int(SECONDS), folder: str = ""
) -> MediaFile:
    """Return a clip of Kinetics400; `folder` is the label unless given."""
    path = f"{split}/{folder or label}/{plan.name}_{start:06d}_{end:06d}.mp4"
    return MediaFile(path, plan, (label, plan.name, start, end, split, 0))


def kinetics(split: str, clips: Iterable[MediaFile]) -> Iterator[File]:
    """Lay out a split of Kinetics400."""
    return _listed(f"{split}.csv", _KINETICS, clips)


def esc50_clip(
    fold: int, source: int, target: int, label: str, plan: Plan, *, take: str = "A", esc10: bool = False
) -> MediaFile:
    """Return a clip of ESC-50."""
    name = f"{fold}-{source}-{take}-{target}.wav"
    return MediaFile(f"audio/{name}", plan, (name, fold, target, label, esc10, source, take), seconds=5.0)


def esc50(clips: Iterable[MediaFile]) -> Iterator[File]:
    """Lay out ESC-50."""
    return _listed("meta/esc50.csv", _ESC50, clips)


def fsd50k_clip(
    part: str,
    number: int,
    labels: Sequence[str],
    plan: Plan,
    *,
    vocabulary: Mapping[str, str],
    split: str,
    seconds: float,
) -> MediaFile:
    """Return a clip of FSD50K, of part ``dev`` or ``eval``; only the former's table has the split."""
    mids = (vocabulary[label] for label in labels)
    row = (str(number), ",".join(labels), ",".join(mids), split)
    path = f"FSD50K.{part}_audio/{number}.wav"
    return MediaFile(path, plan, row if part == "dev" else row[:3], seconds=seconds)


def fsd50k(vocabulary: Mapping[str, str], **parts: Iterable[MediaFile]) -> Iterator[File]:
    """Lay out FSD50K with a vocabulary of MIDs by label."""
    rows = ((number, label, mid) for number, (label, mid) in enumerate(sorted(vocabulary.items())))
    yield make_table(f"{_TRUTH}/vocabulary.csv", rows)
    for part, clips in parts.items():
        header = _FSD50K if part == "dev" else _FSD50K[:3]
        yield from _listed(f"{_TRUTH}/{part}.csv", header, clips)


def below(folder: str, files: Iterable[File]) -> Iterator[File]:
    """Move files into a folder."""
    return (dataclasses.replace(file, path=f"{folder}/{file.path}") for file in files)


def _listed(path: str, header: tuple[str, ...], clips: Iterable[MediaFile]) -> Iterator[File]:
    """Return clips and the table of their rows."""
    clips = list(clips)
    yield from clips
    yield make_table(path, [header, *(clip.row for clip in clips)])
