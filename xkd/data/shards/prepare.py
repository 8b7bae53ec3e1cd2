"""prepare: decode every clip once, and write what training and evaluation read fast."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from xkd.config.overrides import STRICT
from xkd.data.shards.manifest import DATASET, Clip, PreparedDataset, write_rows
from xkd.data.shards.media import MediaError, encode_wav, read_audio, transcode_video
from xkd.data.sources.layout import Kind, SourceClip
from xkd.data.sources.source import Source, describe_missing, open_source
from xkd.errors import UserError
from xkd.io import try_lock, write_text
from xkd.parallel.processes import Failure, run_each
from xkd.progress import progress

_SHARD_CLIPS = 256
_SECONDS_LIMIT = 120.0
"""Longest a single clip may take; a decoder that hangs is stopped and the clip skipped."""
_WRITER = 2
"""Raised when the bytes that a clip becomes change, so that old outputs are not taken for new ones."""
_UNFINISHED = "unfinished"


@settings(frozen=True, kw_only=True, config=STRICT)
class PrepareConfig:
    """How clips are prepared."""

    short_side: int = Field(default=128, ge=16, multiple_of=2)
    """Short side of the prepared video, pixels (smaller sources keep their size)."""
    max_fps: float | None = Field(default=None, gt=0)
    """Most frames a second; None keeps the source's."""
    sample_rate: int = Field(default=16000, gt=0)
    """Audio samples a second."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Decoding processes."""
    max_skipped: float = Field(default=0.05, ge=0, le=1)
    """Share of clips that may fail before the run stops."""
    dataset: str = ""
    """Layout of the source (`xkd.data.sources.source.LAYOUTS`); empty: the one it is recognized by."""
    allow_missing: bool = False
    """Whether files that the annotations list may be absent."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the bytes written."""
        return {
            "short_side": self.short_side,
            "max_fps": self.max_fps,
            "sample_rate": self.sample_rate,
            "writer": _WRITER,
        }


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a prepared dataset holds, and what it took."""

    name: str
    revision: str
    clips: int
    skipped: int
    absent: int
    without_audio: int
    hours: float
    classes: int
    splits: Mapping[str, int]
    bytes_in: int
    """Of the source's files."""
    bytes_out: int
    """Of the shards."""
    processed: int
    """Clips that this run prepared; 0: the output was complete before."""
    elapsed: float
    """Seconds this run took."""

    def __str__(self) -> str:
        splits = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        text = (
            f"{self.name} {self.revision[:12]}: {self.clips} clips ({splits}), {self.hours:.2f} h, "
            f"{self.classes} classes, {self.without_audio} without audio, {self.skipped} skipped"
        )
        text += f", {self.absent} absent" if self.absent else ""
        text += f"; {self.bytes_in / 1e6:.1f} MB in, {self.bytes_out / 1e6:.1f} MB out"
        return text + (f", {self.processed / self.elapsed:.1f} clips/s" if self.processed else "")


def prepare(source: Path, out: Path, config: PrepareConfig) -> Summary:
    """Decode the dataset at `source` once and write it to `out` for fast random windows.

    A complete output of the same source revision and settings is left alone; an interrupted one is
    continued. The bytes written depend on neither the number of workers nor on interruptions.

    Raises:
        UserError: the source cannot be read (see `open_source`); it is for learning from sound and has none;
            too many of its clips fail; `out` holds something else or another preparation; the disk is full.
    """
    began = time.monotonic()
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} lies in the dataset {source}; give a directory elsewhere to prepare into")
    dataset = open_source(source, config.dataset, allow_missing=config.allow_missing)
    if dataset.missing:
        listed = len(dataset.clips) + len(dataset.missing)
        print(f"prepare: {describe_missing(dataset.missing, listed)}; going on without them", file=sys.stderr)
    state = {"name": dataset.name, "revision": dataset.revision, "settings": config.settings}
    if (out / DATASET).is_file():
        manifest, processed = PreparedDataset.open(out), 0
        done = {"name": manifest.name, "revision": manifest.revision, "settings": dict(manifest.settings)}
        _check_same(out, done, state)
        print(f"prepare: {out} is complete, nothing to do", file=sys.stderr)
    else:
        try:
            with _claimed(out, state):
                processed = _write_shards(dataset, out, config)
                manifest = _finish(dataset, out, config)
        except OSError as error:
            kept = "; finished shards are kept, the same command goes on" if out.is_dir() else ""
            raise UserError(f"cannot write {out}: {error.strerror}{kept}") from None
    summary = _summarize(dataset, manifest, processed, time.monotonic() - began)
    failed = f"; {out / 'skipped.csv'} says why" if summary.skipped else ""
    print(f"prepare: {summary}{failed}", file=sys.stderr)
    return summary


@contextmanager
def _claimed(out: Path, state: Mapping[str, Any]) -> Iterator[None]:
    """Have an empty directory, or one where the same was interrupted, to oneself.

    Raises:
        UserError: it holds something else, or another process is at it.
    """
    folder = out / _UNFINISHED
    if not folder.is_dir() and out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} holds other files; give a new or an empty directory to prepare into")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        os.register_at_fork(
            after_in_child=file.close
        )  # workers that outlive a killed parent must not keep it
        if not try_lock(file):
            raise UserError(f"{out} is being prepared by another process; wait for its end")
        marker = folder / "state.json"
        if marker.is_file():
            _check_same(out, json.loads(marker.read_text()), state)
        else:
            (out / "shards").mkdir(exist_ok=True)
            write_text(marker, json.dumps(state))
        yield


def _check_same(out: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    before, now = _flat(theirs), _flat(ours)
    differing = [
        f"{name} {before.get(name)} (now {now.get(name)})" for name in now if before.get(name) != now[name]
    ]
    if differing:
        raise UserError(
            f"{out} was prepared with another {', '.join(differing)}; give another directory or delete it"
        )


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": state["name"], "revision": state["revision"], **state["settings"]}


def _write_shards(dataset: Source, out: Path, config: PrepareConfig) -> int:
    """Prepare the clips of every shard that an earlier run did not finish; returns how many those were."""
    shards = {
        f"{start // _SHARD_CLIPS:06d}": dataset.clips[start : start + _SHARD_CLIPS]
        for start in range(0, len(dataset.clips), _SHARD_CLIPS)
    }
    reports = {name: out / _UNFINISHED / f"{name}.json" for name in shards}
    skipped = [
        row for path in reports.values() if path.is_file() for row in json.loads(path.read_text())["skipped"]
    ]
    pending = [name for name in shards if not reports[name].is_file()]
    jobs = [clip for name in pending for clip in shards[name]]
    task = functools.partial(_prepare_clip, kind=dataset.kind, config=config)
    done = len(dataset.clips) - len(jobs)
    with progress("prepare", len(dataset.clips), done=done) as bar:
        outcomes = run_each(task, jobs, config.workers, _SECONDS_LIMIT)
        for name in pending:
            rows, lost = [], []
            partial = out / "shards" / f"{name}.partial"
            with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
                for clip, outcome in zip(shards[name], outcomes, strict=False):
                    bar.advance()
                    if isinstance(outcome, Failure):
                        lost.append({"clip": clip.id, "reason": outcome.reason})
                        skipped.append(lost[-1])
                        _check_skipped(dataset, out, skipped, config.max_skipped)
                    else:
                        rows.append(_add(tar, f"shards/{name}.tar", clip, outcome).to_row())
            partial.replace(out / "shards" / f"{name}.tar")
            write_text(reports[name], json.dumps({"clips": rows, "skipped": lost}))
    return len(jobs)


def _finish(dataset: Source, out: Path, config: PrepareConfig) -> PreparedDataset:
    """Write the manifest of all shards."""
    reports = [json.loads(path.read_text()) for path in sorted((out / _UNFINISHED).glob("0*.json"))]
    clips = tuple(Clip.from_row(row) for report in reports for row in report["clips"])
    skipped = [row for report in reports for row in report["skipped"]]
    absent = [{"clip": clip.id, "reason": f"absent: {clip.place}"} for clip in dataset.missing]
    _write_skipped(out, [*skipped, *absent])
    if not clips:
        raise UserError(
            f"{dataset.root}: none of {len(skipped)} clips could be prepared; see {out / 'skipped.csv'}"
        )
    if dataset.kind == "audiovisual" and not any(clip.has_audio for clip in clips):
        raise UserError(f"{dataset.root}: no clip has any audio; XKD learns from video and sound together")
    manifest = PreparedDataset(
        root=out,
        name=dataset.name,
        revision=dataset.revision,
        classes=tuple(sorted({label for clip in dataset.clips for label in clip.labels})),
        clips=clips,
        settings=config.settings,
        skipped=len(skipped),
        absent=len(absent),
        origin=dataset.origin,
    )
    manifest.write()
    shutil.rmtree(out / _UNFINISHED)
    return manifest


@dataclass(frozen=True)
class _Files:
    """A prepared clip, as the files of a shard."""

    video: bytes | None
    audio: bytes | None
    duration: float


def _prepare_clip(clip: SourceClip, *, kind: Kind, config: PrepareConfig) -> _Files:
    """Decode and encode one clip; runs in a worker.

    Raises:
        MediaError: the clip cannot be used; the reason goes to skipped.csv.
    """
    assert clip.file is not None
    if clip.file.size == 0:
        raise MediaError("empty file")
    content = clip.file.content()
    video, seconds = None, float("inf")
    if kind != "audio":
        video, seconds = transcode_video(content, config.short_side, config.max_fps)
    try:
        samples = read_audio(content, config.sample_rate)
    except MediaError:
        if kind != "video":
            raise
        samples = None  # the pictures are what the dataset is for
    if samples is None:
        if video is None:
            raise MediaError("no audio stream")
        return _Files(video, None, seconds)
    if kind != "video":
        seconds = min(seconds, len(samples) / config.sample_rate)
    return _Files(video, encode_wav(samples, config.sample_rate), seconds)


def _add(tar: tarfile.TarFile, shard: str, clip: SourceClip, files: _Files) -> Clip:
    """Append a clip's files to a shard; returns its row."""
    places: dict[str, int | None] = {}
    for kind, suffix, data in (("video", "mp4", files.video), ("audio", "wav", files.audio)):
        places[f"{kind}_offset"] = places[f"{kind}_size"] = None
        if data is not None:
            member = tarfile.TarInfo(f"{clip.id}.{suffix}")  # time, owner and mode are constants: equal bytes
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            places[f"{kind}_offset"] = tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[f"{kind}_size"] = len(data)
    return Clip(
        id=clip.id,
        splits=clip.splits,
        labels=clip.labels,
        shard=shard,
        duration=files.duration,
        **places,
    )


def _check_skipped(dataset: Source, out: Path, skipped: Sequence[Mapping[str, str]], limit: float) -> None:
    if len(skipped) > limit * len(dataset.clips):
        _write_skipped(out, skipped)
        last, table = skipped[-1], out / "skipped.csv"
        raise UserError(
            f"{dataset.root}: {len(skipped)} of {len(dataset.clips)} clips failed, more than "
            f"max_skipped={limit:g} allows (last {last['clip']}: {last['reason']}; all in {table})"
        )


def _write_skipped(out: Path, skipped: Sequence[Mapping[str, str]]) -> None:
    with (out / "skipped.csv").open("w", newline="", encoding="utf-8") as file:
        write_rows(file, ("clip", "reason"), skipped)


def _summarize(dataset: Source, manifest: PreparedDataset, processed: int, elapsed: float) -> Summary:
    return Summary(
        name=manifest.name,
        revision=manifest.revision,
        clips=len(manifest.clips),
        skipped=manifest.skipped,
        absent=manifest.absent,
        without_audio=sum(not clip.has_audio for clip in manifest.clips),
        hours=sum(clip.duration for clip in manifest.clips) / 3600,
        classes=len(manifest.classes),
        splits=manifest.counts,
        bytes_in=sum(clip.file.size for clip in dataset.clips if clip.file),
        bytes_out=sum((clip.video_size or 0) + (clip.audio_size or 0) for clip in manifest.clips),
        processed=processed,
        elapsed=elapsed,
    )
