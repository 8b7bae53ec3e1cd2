"""What preparing a dataset would give and take: from headers, and a few clips that are measured."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from xkd.data.media.header import Header
from xkd.data.shards.manifest import count_classes
from xkd.data.shards.prepare import CLIP_TIMEOUT, PrepareConfig, encode
from xkd.data.sources.dataset import SourceDataset
from xkd.data.sources.files import printable
from xkd.data.sources.layout import SourceClip
from xkd.data.sources.own import Probe, probe
from xkd.data.sources.source import open_source
from xkd.parallel.processes import Failure, run_each

_SAMPLE = 8
"""Clips that are prepared, for each process at least one."""


def dry_run(source: Path, config: PrepareConfig) -> str:
    """Return what `xkd.data.shards.prepare.prepare` would prepare and leave out, and its time and disk space.

    Nothing is written.

    Raises:
        UserError: see `open_source`.
    """
    dataset = open_source(source, config.dataset, allow_missing=config.allow_missing, config=config)
    files = {clip.place: clip.file for clip in dataset.clips if clip.file}
    probes = dataset.probes if dataset.own else probe(dataset.name, files)
    headers = {place: found.header for place, found in probes.items() if found.header}
    readable = [clip for clip in dataset.clips if clip.place in headers]
    seconds = sum(_duration(clip, headers[clip.place]) for clip in readable)
    places = dict.fromkeys(clip.place for clip in readable)
    splits = Counter(
        f"fold {fold} {split}" if len(clip.splits) > 1 else split
        for clip in readable
        for fold, split in enumerate(clip.splits, 1)
    )
    classes = count_classes({label for clip in readable for label in clip.labels})
    counts = f"{len(readable)} clips of {len(places)} files"
    lines = [
        f"{dataset.name}: {counts} ({_list(splits)}), {seconds / 3600:.2f} h, {classes}"
        if readable
        else f"{dataset.name}: nothing to prepare",
        *[f"codecs: {_list(Counter(_codecs(headers[place]) for place in places))}"][: len(places)],
        *_skipped(dataset, probes, config),
        *_measure(dataset, readable, headers, seconds, config),
    ]
    return "\n".join(lines)


def _duration(clip: SourceClip, header: Header) -> float:
    """Return the seconds of a clip, as far as its file's header tells."""
    if clip.segment is None:
        return header.seconds
    length = clip.segment[1] - clip.segment[0]
    return min(length, header.seconds) if header.seconds else length


def _codecs(header: Header) -> str:
    return " + ".join(filter(None, (header.video, header.audio))) + " without sound" * (not header.audio)


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def _skipped(dataset: SourceDataset, probes: Mapping[str, Probe], config: PrepareConfig) -> list[str]:
    """Return what would be skipped and left out, and whether it is too much."""
    lost = [clip for clip in dataset.clips if probes[clip.place].problem]
    lines = []
    if lost:
        stops = len(lost) > config.max_skipped * len(dataset.clips)
        allowed = f"; more than max_skipped={config.max_skipped:g} allows, prepare would stop" * stops
        first = f"{printable(lost[0].place)}: {probes[lost[0].place].problem}"
        lines.append(
            f"unreadable: {len(lost)} file{'s' * (len(lost) > 1)}, would be skipped (first {first}){allowed}"
        )
    if dataset.missing:
        lines.append(dataset.describe_missing())
    lines += [f"left out: {place}, {reason}" for place, reason in dataset.left_out[:5]]
    if len(dataset.left_out) > 5:
        lines.append(f"left out: {len(dataset.left_out) - 5} more files")
    return lines


def _measure(
    dataset: SourceDataset,
    clips: list[SourceClip],
    headers: Mapping[str, Header],
    seconds: float,
    config: PrepareConfig,
) -> list[str]:
    """Prepare a few clips in memory, and scale their time and size to all."""
    sample = clips[:: max(1, len(clips) // max(_SAMPLE, config.workers))]
    begin = time.monotonic()
    task = functools.partial(encode, kind=dataset.kind, config=config)
    outcomes = list(run_each(task, sample, config.workers, CLIP_TIMEOUT))
    elapsed = time.monotonic() - begin
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    lines = [f"failed: {len(failed)} of {len(sample)} measured clips ({failed[0].reason})"] if failed else []
    measured = sum(_duration(clip, headers[clip.place]) for clip in sample)
    if not measured or len(failed) == len(sample):
        return lines
    written = sum(
        len(data) for one in outcomes if not isinstance(one, Failure) for data in one.files.values()
    )
    scale = seconds / measured
    duration, size = (
        timedelta(seconds=round(elapsed * scale)),
        f"{written * scale / 1e6:.1f} MB of disk space",
    )
    cost = (
        f"takes about {duration} with workers={config.workers} and {size} (measured on {len(sample)} clips)"
    )
    return [*lines, cost]
