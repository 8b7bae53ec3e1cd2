"""The official layouts that both the embedded dataset and the miniatures are written in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from xkd.data.synthetic.files import File, MediaFile, make_table
from xkd.data.synthetic.plan import Plan

_KINETICS = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
_ESC50 = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
_FSD50K = ("fname", "labels", "mids", "split")


def kinetics(split: str, clips: Iterable[tuple[str, str, Plan, int, int]], root: str = "") -> Iterator[File]:
    """Lay out a split of Kinetics400 from (label, folder, plan, start, end) of each clip."""
    rows: list[tuple[object, ...]] = [_KINETICS]
    for label, folder, plan, start, end in clips:
        rows.append((label, plan.name, start, end, split, 0))
        yield MediaFile(f"{root}{split}/{folder}/{plan.name}_{start:06d}_{end:06d}.mp4", plan)
    yield make_table(f"{root}{split}.csv", rows)


def esc50(clips: Iterable[tuple[int, int, str, int, str, bool, Plan]], root: str = "") -> Iterator[File]:
    """Lay out ESC-50 from (fold, source file, take, target, label, whether in ESC-10, plan) of each clip."""
    rows: list[tuple[object, ...]] = [_ESC50]
    for fold, source, take, target, label, esc10, plan in clips:
        name = f"{fold}-{source}-{take}-{target}.wav"
        rows.append((name, fold, target, label, esc10, source, take))
        yield MediaFile(f"{root}audio/{name}", plan, seconds=5.0)
    yield make_table(f"{root}meta/esc50.csv", rows)


def fsd50k(
    mids: Mapping[str, str],
    parts: Mapping[str, Iterable[tuple[int, tuple[str, ...], str, Plan, float]]],
    root: str = "",
) -> Iterator[File]:
    """Lay out FSD50K from (number, labels, split, plan, seconds) of each clip of part ``dev`` and ``eval``.

    Args:
        mids: the vocabulary: sorted labels and their identifiers.
        parts: the clips; only the table of ``dev`` has a split.
        root: folder of the layout, with a slash.
    """
    truth = f"{root}FSD50K.ground_truth"
    yield make_table(f"{truth}/vocabulary.csv", ((row, *item) for row, item in enumerate(mids.items())))
    for part, clips in parts.items():
        rows = [_FSD50K]
        for number, labels, split, plan, seconds in clips:
            rows.append((str(number), ",".join(labels), ",".join(mids[label] for label in labels), split))
            yield MediaFile(f"{root}FSD50K.{part}_audio/{number}.wav", plan, seconds=seconds)
        yield make_table(f"{truth}/{part}.csv", rows if part == "dev" else [row[:3] for row in rows])
