"""prepare: decode every clip once, and write shards that training and evaluation read fast."""

from __future__ import annotations

import functools
import os
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from xkd.config.overrides import STRICT
from xkd.data.shards.encode import EncodedClip, append_clip, encode_clip
from xkd.data.shards.manifest import DATASET, Clip, PreparedDataset, write_table
from xkd.data.sources.layout import SourceClip
from xkd.data.sources.source import Source, describe_missing, open_source
from xkd.errors import UserError
from xkd.io import OutputDir, find_json, read_json, write_json
from xkd.parallel.processes import Failure, run_each
from xkd.progress import Bar, progress

_SHARD_CLIPS = 256
_CLIP_TIMEOUT = 120.0
"""Seconds after which a clip's decoder is considered hung; it is stopped and the clip skipped."""
_WRITER = 2
"""Incremented when the bytes that a clip becomes change, so that old outputs are not taken for new ones."""


@settings(frozen=True, kw_only=True, config=STRICT)
class PrepareConfig:
    """How clips are prepared."""

    short_side: int = Field(default=128, ge=16, multiple_of=2)
    """Short side of the prepared video, pixels (smaller sources keep their size)."""
    max_fps: float | None = Field(default=None, gt=0)
    """Maximum frame rate; None keeps the source's."""
    sample_rate: int = Field(default=16000, gt=0)
    """Audio samples per second."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Decoding processes."""
    max_skipped: float = Field(default=0.05, ge=0, le=1)
    """Share of clips that may fail before the run stops."""
    dataset: str = ""
    """Layout of the source (`xkd.data.sources.source.LAYOUTS`); empty: recognized by its files."""
    allow_missing: bool = False
    """Whether files that the annotations list may be missing."""

    @property
    def encoding(self) -> dict[str, Any]:
        """The settings of `encode_clip`."""
        return {"short_side": self.short_side, "max_fps": self.max_fps, "sample_rate": self.sample_rate}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine the bytes written."""
        return {**self.encoding, "writer": _WRITER}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A prepared dataset, and the cost of preparing it."""

    dataset: PreparedDataset
    bytes_in: int
    """Of the source's files."""
    processed: int
    """Clips that this run prepared; 0: the output was complete before."""
    elapsed: float
    """Seconds this run took."""

    def __str__(self) -> str:
        data = self.dataset
        splits = ", ".join(f"{split} {count}" for split, count in data.counts.items())
        written = sum((clip.video_size or 0) + (clip.audio_size or 0) for clip in data.clips)
        text = (
            f"{data.name} {data.revision[:12]}: {len(data.clips)} clips ({splits}), "
            f"{data.seconds / 3600:.2f} h, {len(data.classes)} classes, {data.without_audio} without audio, "
            f"{data.skipped} skipped"
        )
        text += f", {data.missing} missing" if data.missing else ""
        text += f"; {self.bytes_in / 1e6:.1f} MB in, {written / 1e6:.1f} MB out"
        return text + (f", {self.processed / self.elapsed:.1f} clips/s" if self.processed else "")


def prepare(source: Path, out: Path, config: PrepareConfig) -> Summary:
    """Decode the dataset at `source` once and write it to `out` for fast random windows.

    A complete output of the same source revision and settings is kept; an interrupted one is resumed. The
    bytes written depend on neither the number of workers nor on interruptions.

    Raises:
        UserError: the source cannot be read (see `open_source`) or should have audio and has none; too many
            of its clips fail; `out` holds something else or another preparation; the disk is full.
    """
    start = time.monotonic()
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} is inside the dataset {source}; choose a directory outside of it")
    dataset = open_source(source, config.dataset, allow_missing=config.allow_missing)
    if dataset.missing:
        listed = len(dataset.clips) + len(dataset.missing)
        print(f"prepare: {describe_missing(dataset.missing, listed)}; continuing", file=sys.stderr)
    identity = {"name": dataset.name, "revision": dataset.revision, **config.settings}
    output, processed = OutputDir(out, identity, functools.partial(_find_identity, out)), 0
    with output.fill() as pending:
        if pending:
            shards = _Shards(dataset, output, config)
            processed = shards.write()
            prepared = _finish(dataset, out, config, shards)
        else:
            prepared = PreparedDataset.open(out)
            print(f"prepare: {out} is complete, nothing to do", file=sys.stderr)
    summary = Summary(
        dataset=prepared,
        bytes_in=sum(clip.file.size for clip in dataset.clips if clip.file),
        processed=processed,
        elapsed=time.monotonic() - start,
    )
    reasons = f"; see {out / 'skipped.csv'}" if prepared.skipped else ""
    print(f"prepare: {summary}{reasons}", file=sys.stderr)
    return summary


def _find_identity(out: Path) -> dict[str, Any] | None:
    """Return what identifies a complete output."""
    if (values := find_json(out / DATASET)) is None:
        return None
    return {"name": values.get("name"), "revision": values.get("revision"), **values.get("settings", {})}


class _Shards:
    """The shards of an output, with a report of each that is finished, to resume from."""

    def __init__(self, dataset: Source, output: OutputDir, config: PrepareConfig) -> None:
        self.dataset, self.out, self.config = dataset, output.path, config
        self.unfinished = output.unfinished
        self.clips = {
            f"{start // _SHARD_CLIPS:06d}": dataset.clips[start : start + _SHARD_CLIPS]
            for start in range(0, len(dataset.clips), _SHARD_CLIPS)
        }
        self.reports = {name: self.unfinished / f"{name}.json" for name in self.clips}

    def write(self) -> int:
        """Write the shards that no earlier run finished; return the number of their clips."""
        (self.out / "shards").mkdir(exist_ok=True)
        pending = [name for name, report in self.reports.items() if not report.is_file()]
        jobs = [clip for name in pending for clip in self.clips[name]]
        skipped = self.rows("skipped")
        task = functools.partial(encode_clip, kind=self.dataset.kind, **self.config.encoding)
        total = len(self.dataset.clips)
        with progress("prepare", total, done=total - len(jobs)) as bar:
            outcomes = run_each(task, jobs, self.config.workers, _CLIP_TIMEOUT)
            for name in pending:
                self._write(name, outcomes, skipped, bar)
        return len(jobs)

    def _write(
        self, name: str, outcomes: Iterator[EncodedClip | Failure], skipped: list[dict[str, str]], bar: Bar
    ) -> None:
        """Write one shard and its report; `skipped` gets the clips that failed."""
        rows, before, partial = [], len(skipped), self.unfinished / f"{name}.tar"
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            for clip, outcome in zip(self.clips[name], outcomes, strict=False):
                bar.advance()
                if isinstance(outcome, Failure):
                    skipped.append({"clip": clip.id, "reason": outcome.reason})
                    self._check_skipped(skipped)
                else:
                    rows.append(append_clip(tar, f"shards/{name}.tar", clip, outcome).to_row())
        partial.replace(self.out / "shards" / f"{name}.tar")
        write_json(self.reports[name], {"clips": rows, "skipped": skipped[before:]})

    def _check_skipped(self, skipped: Sequence[Mapping[str, str]]) -> None:
        """Stop when too many clips have failed."""
        total, limit = len(self.dataset.clips), self.config.max_skipped
        if len(skipped) > limit * total:
            _write_skipped(self.out, skipped)
            raise UserError(
                f"{self.dataset.root}: {len(skipped)} of {total} clips failed, more than "
                f"max_skipped={limit:g} allows (last {skipped[-1]['clip']}: {skipped[-1]['reason']}; all in "
                f"{self.out / 'skipped.csv'})"
            )

    def rows(self, kind: str) -> list[dict[str, str]]:
        """Return the ``clips`` or the ``skipped`` of all finished shards."""
        return [row for path in self.reports.values() if path.is_file() for row in read_json(path)[kind]]


def _finish(dataset: Source, out: Path, config: PrepareConfig, shards: _Shards) -> PreparedDataset:
    """Write skipped.csv, the manifest and dataset.json."""
    clips, skipped = tuple(map(Clip.from_row, shards.rows("clips"))), shards.rows("skipped")
    _write_skipped(out, skipped, dataset.missing)
    if not clips:
        raise UserError(
            f"{dataset.root}: none of {len(skipped)} clips could be prepared; see {out / 'skipped.csv'}"
        )
    if dataset.kind == "audiovisual" and not any(clip.has_audio for clip in clips):
        raise UserError(f"{dataset.root}: no clip has audio, but XKD learns from video and audio together")
    prepared = PreparedDataset(
        root=out,
        name=dataset.name,
        revision=dataset.revision,
        classes=tuple(sorted({label for clip in dataset.clips for label in clip.labels})),
        clips=clips,
        settings=config.settings,
        skipped=len(skipped),
        missing=len(dataset.missing),
        origin=dataset.origin,
    )
    prepared.write()
    return prepared


def _write_skipped(
    out: Path, skipped: Sequence[Mapping[str, str]], missing: Sequence[SourceClip] = ()
) -> None:
    rows = [{"clip": clip.id, "reason": f"absent: {clip.place}"} for clip in missing]
    write_table(out / "skipped.csv", ("clip", "reason"), [*skipped, *rows])
