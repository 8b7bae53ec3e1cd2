"""prepare: decode every clip once, and write what training and evaluation read fast."""

from __future__ import annotations

import functools
import io
import json
import shutil
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from xkd.data.datasets import Source, SourceClip, open_source
from xkd.data.manifest import DATASET, Clip, Manifest, write_rows
from xkd.data.media import MediaError, encode_wav, read_audio, transcode_video
from xkd.data.workers import Failure, run_each
from xkd.errors import UserError
from xkd.files import write_text
from xkd.progress import progress
from xkd.settings import STRICT

_SHARD_CLIPS = 256
_SECONDS_LIMIT = 120.0
"""Longest a single clip may take; a decoder that hangs is stopped and the clip skipped."""
_WRITER = 1
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
    workers: int = Field(default_factory=lambda: cpu_count() or 1, ge=1)
    """Decoding processes."""
    max_skipped: float = Field(default=0.05, ge=0, le=1)
    """Share of clips that may fail before the run stops."""

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
    without_audio: int
    hours: float
    classes: int
    splits: Mapping[str, int]
    unchanged: bool
    """True: the output was complete before, nothing was done."""
    elapsed: float
    """Seconds this run took."""


def prepare(source: Path, out: Path, config: PrepareConfig) -> Summary:
    """Decode the dataset at `source` once and write it to `out` for fast random windows.

    A complete output of the same source revision and settings is left alone; an interrupted one is
    continued. Which clips are written, and where, depends on neither the number of workers nor on
    interruptions. (Their bytes should not either; libx264 was seen to differ in one clip of a hundred.)

    Raises:
        UserError: the source cannot be read (see `open_source`), has no audio at all, or too many of
            its clips fail; `out` holds something else or another preparation.
    """
    began = time.monotonic()
    dataset = open_source(source)
    state = {"name": dataset.name, "revision": dataset.revision, "settings": config.settings}
    if (out / DATASET).is_file():
        manifest = Manifest.read(out)
        done = {"name": manifest.name, "revision": manifest.revision, "settings": dict(manifest.settings)}
        _check_same(out, done, state)
        print(
            f"prepare: {out} already holds {dataset.name} {dataset.revision[:12]}, nothing to do",
            file=sys.stderr,
        )
        return _summarize(manifest, unchanged=True, elapsed=time.monotonic() - began)
    _begin(out, state)
    _write_shards(dataset, out, config)
    reports = [json.loads(path.read_text()) for path in sorted((out / _UNFINISHED).glob("0*.json"))]
    clips = tuple(Clip.from_row(row) for report in reports for row in report["clips"])
    skipped = [row for report in reports for row in report["skipped"]]
    _write_skipped(out, skipped)
    if not any(clip.has_audio for clip in clips):
        raise UserError(f"{dataset.root}: no clip has any audio; XKD learns from video and sound together")
    manifest = Manifest(
        root=out,
        name=dataset.name,
        revision=dataset.revision,
        classes=tuple(sorted({label for clip in dataset.clips for label in clip.labels})),
        clips=clips,
        settings=config.settings,
        skipped=len(skipped),
    )
    manifest.write()
    shutil.rmtree(out / _UNFINISHED)
    summary = _summarize(manifest, unchanged=False, elapsed=time.monotonic() - began)
    splits = ", ".join(f"{count} {split}" for split, count in summary.splits.items())
    print(
        f"prepare: {summary.clips} clips ({splits}), {summary.without_audio} without audio, "
        f"{summary.skipped} skipped" + (f", see {out / 'skipped.csv'}" if skipped else ""),
        file=sys.stderr,
    )
    return summary


def _begin(out: Path, state: Mapping[str, Any]) -> None:
    """Claim an empty directory, or check that an interrupted run there was the same one."""
    marker = out / _UNFINISHED / "state.json"
    if marker.is_file():
        _check_same(out, json.loads(marker.read_text()), state)
        return
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} holds other files; give a new or an empty directory to prepare into")
    marker.parent.mkdir(parents=True)
    (out / "shards").mkdir()
    write_text(marker, json.dumps(state))


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


def _write_shards(dataset: Source, out: Path, config: PrepareConfig) -> None:
    """Prepare the clips of every shard that an earlier run did not finish."""
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
    task = functools.partial(_prepare_clip, has_video=dataset.has_video, config=config)
    done = len(dataset.clips) - len(jobs)
    with progress("prepare", len(dataset.clips), done=done) as bar:
        outcomes = run_each(task, jobs, config.workers, _SECONDS_LIMIT)
        for name in pending:
            rows = []
            partial = out / "shards" / f"{name}.partial"
            with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
                for clip, outcome in zip(shards[name], outcomes, strict=False):
                    bar.advance()
                    if isinstance(outcome, Failure):
                        skipped.append({"clip": clip.id, "reason": outcome.reason})
                        _check_skipped(dataset, out, skipped, config.max_skipped)
                    else:
                        rows.append(_add(tar, f"shards/{name}.tar", clip, outcome).to_row())
            partial.replace(out / "shards" / f"{name}.tar")
            mine = {clip.id for clip in shards[name]}
            report = {"clips": rows, "skipped": [row for row in skipped if row["clip"] in mine]}
            write_text(reports[name], json.dumps(report))


@dataclass(frozen=True)
class _Files:
    """A prepared clip, as the files of a shard."""

    video: bytes | None
    audio: bytes | None
    duration: float


def _prepare_clip(clip: SourceClip, *, has_video: bool, config: PrepareConfig) -> _Files:
    """Decode and encode one clip; runs in a worker.

    Raises:
        MediaError: the clip cannot be used; the reason goes to skipped.csv.
    """
    if clip.path.stat().st_size == 0:
        raise MediaError("empty file")
    video, seconds = (
        transcode_video(clip.path, config.short_side, config.max_fps) if has_video else (None, None)
    )
    samples = read_audio(clip.path, config.sample_rate)
    if samples is None:
        if seconds is None:
            raise MediaError("no audio stream")
        return _Files(video, None, seconds)
    heard = len(samples) / config.sample_rate
    return _Files(
        video, encode_wav(samples, config.sample_rate), heard if seconds is None else min(seconds, heard)
    )


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
        split=clip.split,
        labels=clip.labels,
        shard=shard,
        duration=files.duration,
        fold=clip.fold,
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


def _summarize(manifest: Manifest, *, unchanged: bool, elapsed: float) -> Summary:
    return Summary(
        name=manifest.name,
        revision=manifest.revision,
        clips=len(manifest.clips),
        skipped=manifest.skipped,
        without_audio=sum(not clip.has_audio for clip in manifest.clips),
        hours=sum(clip.duration for clip in manifest.clips) / 3600,
        classes=len(manifest.classes),
        splits=Counter(clip.split for clip in manifest.clips),
        unchanged=unchanged,
        elapsed=elapsed,
    )
