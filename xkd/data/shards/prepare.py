"""prepare: decode every clip once, and write shards that training and evaluation read fast."""

from __future__ import annotations

import functools
import io
import secrets
import sys
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from xkd.config import Modality
from xkd.config.overrides import STRICT
from xkd.config.types import Text
from xkd.data.media.picture import SHORT_SIDE
from xkd.data.media.prepared import encode_wav
from xkd.data.media.transcode import transcode
from xkd.data.shards.clips import OFFSETS, Clip, Clips
from xkd.data.shards.manifest import DATASET, WRITER, PreparedDataset
from xkd.data.shards.parts import Part
from xkd.data.shards.skipped import check_skipped, to_row, write_lists
from xkd.data.shards.summary import Summary
from xkd.data.sources.dataset import SourceDataset
from xkd.data.sources.layout import Kind, SourceClip
from xkd.data.sources.own import OwnConfig
from xkd.data.sources.source import open_source
from xkd.errors import UserError
from xkd.io import find_json, read_json, write_json
from xkd.output import OutputDir
from xkd.parallel.limits import cores, memory
from xkd.parallel.processes import Failure, run_each
from xkd.progress import progress

_SHARD_CLIPS = 256
CLIP_TIMEOUT = 120.0
"""Seconds after which a clip's decoder is considered hung; it is stopped and the clip skipped."""
_WORKER_MEMORY = 2**30
"""Bytes for each worker, by default; one takes 0.4 GB (docs/benchmarks.md), and more for a large video."""


@settings(frozen=True, kw_only=True, config=STRICT)
class PrepareConfig(OwnConfig):
    """How clips are prepared; of datasets of one's own, also how files are cut and split."""

    short_side: int = Field(default=SHORT_SIDE, ge=16, multiple_of=2)
    """Short side of the prepared video, pixels (smaller sources keep their size)."""
    max_fps: float | None = Field(default=None, gt=0)
    """Maximum frame rate; None keeps the source's."""
    sample_rate: int = Field(default=16000, gt=0)
    """Audio samples per second."""
    workers: int = Field(default_factory=lambda: max(1, min(cores(), memory() // _WORKER_MEMORY)), ge=1)
    """Decoding processes; by default one per core and gibibyte of memory that the process may use."""
    max_skipped: float = Field(default=0.05, ge=0, le=1)
    """Share of clips that may fail before the run stops."""
    dataset: Text = ""
    """Layout of the source (`LAYOUTS`, `OWN_LAYOUTS` of `xkd.data.sources.source`); empty: recognized."""
    allow_missing: bool = False
    """Whether files that the annotations list may be missing."""

    def settings(self, *, own: bool) -> dict[str, Any]:
        """Return the settings that determine what is written of a dataset, one's own or an official one."""
        names = ("short_side", "max_fps", "sample_rate", *(field.name for field in fields(OwnConfig) if own))
        return {name: getattr(self, name) for name in names} | {"writer": WRITER}


def prepare(source: Path, out: Path, config: PrepareConfig) -> Summary:
    """Decode the dataset at `source` once and write it to `out` for fast random windows.

    A complete output of the same source revision and settings is kept; an interrupted one is resumed. The
    bytes written depend on neither the number of workers, interruptions nor parts.

    Raises:
        UserError: the source cannot be read (see `open_source`) or should have audio and has none; too many
            of its clips fail; `out` holds something else or another preparation; the disk is full.
    """
    summary = _prepare(source, out, config, None)
    assert summary
    return summary


def prepare_part(source: Path, out: Path, config: PrepareConfig, part: Part) -> Summary | None:
    """Prepare some shards of a dataset, while other processes prepare the others in the same directory.

    The process that finishes the last part also completes the dataset, as `prepare` does.

    Returns:
        None: other parts are not finished.

    Raises:
        UserError: see `prepare`.
    """
    return _prepare(source, out, config, part)


def _prepare(source: Path, out: Path, config: PrepareConfig, part: Part | None) -> Summary | None:
    start = time.monotonic()
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} is inside the dataset {source}; choose a directory outside of it")
    _refuse_early(out, config)
    dataset = open_source(source, config.dataset, allow_missing=config.allow_missing, config=config)
    if dataset.missing:
        print(f"prepare: {dataset.describe_missing()}; continuing", file=sys.stderr)
    identity = {"name": dataset.name, "revision": dataset.revision, **config.settings(own=bool(dataset.own))}
    output, processed = _output(out, identity), 0
    if part:
        name = f"part {part.number} of {part.count}"
        with output.fill(part=name.replace(" ", "-")) as pending:
            left = 0
            if pending:
                processed = _write_shards(dataset, output, config, part)
                left = sum(not path.is_file() for path in _reports(dataset, output))
        if left:
            print(f"prepare: {name} is finished; {left} shards of others are not", file=sys.stderr)
            return None
    with output.fill() as pending:
        if pending:
            processed += _write_shards(dataset, output, config, Part(1, 1))
            prepared = _finish(dataset, output, config)
        else:
            prepared = PreparedDataset.open(out)
            print(f"prepare: {out} is complete, nothing to do", file=sys.stderr)
    size, elapsed = sum(clip.file.size for clip in dataset.clips if clip.file), time.monotonic() - start
    summary = Summary(dataset=prepared, bytes_in=size, processed=processed, elapsed=elapsed)
    listed = {"damaged": prepared.damaged, "skipped": prepared.skipped or dataset.left_out}
    tables = [f"{out / name}.csv" for name, count in listed.items() if count]
    print(f"prepare: {summary}{'; see ' * bool(tables)}{' and '.join(tables)}", file=sys.stderr)
    return summary


def _output(out: Path, identity: Mapping[str, Any]) -> OutputDir:
    def find() -> dict[str, Any] | None:
        values = find_json(out / DATASET)
        return values and values | values.get("settings", {})

    return OutputDir(out, identity, find)


def _refuse_early(out: Path, config: PrepareConfig) -> None:
    """Refuse an output directory before the source is read, which may take long.

    Raises:
        UserError: it cannot be written, or holds something else or a preparation with other settings.
    """
    names = {*config.settings(own=False), *(_output(out, {}).find_identity() or ())}
    settings = config.settings(own=True)
    _output(out, {name: settings[name] for name in names & settings.keys()}).check()


def _reports(dataset: SourceDataset, output: OutputDir) -> list[Path]:
    """Return where each shard, once finished, has its rows: ``clips``, ``skipped`` and ``damaged``."""
    return [output.unfinished / f"{n:06d}.json" for n in range(-(-len(dataset.clips) // _SHARD_CLIPS))]


def _write_shards(dataset: SourceDataset, output: OutputDir, config: PrepareConfig, part: Part) -> int:
    """Write the shards of a part that no run finished, with a report of each; return the number of clips."""
    paths = _reports(dataset, output)
    total, shards, skipped = 0, dict[Path, tuple[SourceClip, ...]](), list[dict[str, str]]()
    for number, path in enumerate(paths):
        clips = dataset.clips[number * _SHARD_CLIPS : (number + 1) * _SHARD_CLIPS]
        total += len(clips) * (number in part.of(len(paths)))
        if report := find_json(path):
            skipped += report["skipped"]
        elif number in part.of(len(paths)):
            shards[path] = clips
    jobs = [clip for clips in shards.values() for clip in clips]
    if dataset.probes:
        # Of one's own files it is known before the work which cannot be opened: all are listed at once.
        problems = [(clip, dataset.probes[clip.place].problem) for clip in dataset.clips]
        known = [to_row(clip, reason=problem) for clip, problem in problems if problem]
        check_skipped(dataset, known, output.path, config.max_skipped)
    task = functools.partial(encode, kind=dataset.kind, config=config)
    (output.path / "shards").mkdir(exist_ok=True)
    with progress("prepare", total, done=total - len(jobs)) as bar:
        outcomes = run_each(task, jobs, config.workers, CLIP_TIMEOUT)
        for path, clips in shards.items():
            # Another run may be writing the same shard, as one of other parts: each has its own file.
            shard, partial = f"shards/{path.stem}.tar", path.with_suffix(f".{secrets.token_hex(4)}.tar")
            rows, damaged, before = [], [], len(skipped)
            with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
                for clip, outcome in zip(clips, outcomes, strict=False):
                    bar.advance()
                    if isinstance(outcome, Failure):
                        skipped.append(to_row(clip, reason=outcome.reason))
                        check_skipped(dataset, skipped, output.path, config.max_skipped)
                    else:
                        rows.append(_append(tar, shard, clip, outcome).to_row())
                        if outcome.damage:
                            damaged.append(to_row(clip, damage=outcome.damage))
            partial.replace(output.path / shard)
            write_json(path, {"clips": rows, "skipped": skipped[before:], "damaged": damaged})
    return len(jobs)


def _finish(dataset: SourceDataset, output: OutputDir, config: PrepareConfig) -> PreparedDataset:
    """Write skipped.csv, damaged.csv, the manifest and dataset.json."""
    out, reports = output.path, [read_json(path) for path in _reports(dataset, output)]
    rows, skipped, damaged = (
        [row for report in reports for row in report[kind]] for kind in ("clips", "skipped", "damaged")
    )
    check_skipped(dataset, skipped, out, config.max_skipped)
    write_lists(out, dataset, skipped, damaged)
    classes, absent = (
        {label for clip in clips for label in clip.labels} for clips in (dataset.clips, dataset.missing)
    )
    prepared = PreparedDataset(
        root=out,
        name=dataset.name,
        revision=dataset.revision,
        classes=tuple(sorted(classes)),
        lost_classes=tuple(sorted(absent - classes)),
        clips=Clips.of(map(Clip.from_row, rows)),
        settings=config.settings(own=bool(dataset.own)),
        skipped=len(skipped),
        damaged=len(damaged),
        missing=len(dataset.missing),
        origin=dataset.origin,
        own=dataset.own,
    )
    if not rows:
        reasons = out / "skipped.csv"
        raise UserError(f"{dataset.root}: none of {len(skipped)} clips could be prepared; see {reasons}")
    if dataset.kind == "audiovisual" and prepared.without_audio == len(rows):
        raise UserError(f"{dataset.root}: no clip has audio, but XKD learns from video and audio together")
    prepared.write()
    return prepared


@dataclass(frozen=True)
class Encoded:
    """What a worker makes of a clip."""

    files: Mapping[Modality, bytes]
    """An mp4 and a wav file."""
    seconds: float
    """Duration that its modalities cover, or the video alone where the dataset is one of videos."""
    damage: str
    """What could not be decoded; empty: all could."""


def encode(clip: SourceClip, kind: Kind, config: PrepareConfig) -> Encoded:
    """Decode and encode one clip, in a worker.

    Raises:
        MediaError: the clip cannot be used; the reason goes to skipped.csv.
    """
    assert clip.file is not None
    found = transcode(
        clip.file.content(),
        with_video=kind != "audio",
        short_side=config.short_side,
        max_fps=config.max_fps,
        sample_rate=config.sample_rate,
        segment=clip.segment,
        exact=clip.exact,
    )
    files: dict[Modality, bytes] = {}
    seconds = found.seconds
    if found.video is not None:
        files["video"] = found.video
    if found.audio is not None:
        files["audio"] = encode_wav(found.audio, config.sample_rate)
        if kind == "audiovisual":
            seconds = min(seconds, len(found.audio) / config.sample_rate)
    return Encoded(files, seconds, str(found.damage))


def _append(tar: tarfile.TarFile, shard: str, clip: SourceClip, encoded: Encoded) -> Clip:
    """Append a clip's files to a shard and return its row."""
    offsets: dict[str, int | None] = dict.fromkeys(OFFSETS)
    for modality, data in encoded.files.items():
        # Time, owner and mode stay the constants of TarInfo: equal clips give equal bytes.
        member = tarfile.TarInfo(f"{clip.id}.{'mp4' if modality == 'video' else 'wav'}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        blocks = -(-len(data) // tarfile.BLOCKSIZE)
        offsets[f"{modality}_offset"] = tar.offset - blocks * tarfile.BLOCKSIZE
        offsets[f"{modality}_size"] = len(data)
    return Clip(
        id=clip.id, splits=clip.splits, labels=clip.labels, shard=shard, duration=encoded.seconds, **offsets
    )
