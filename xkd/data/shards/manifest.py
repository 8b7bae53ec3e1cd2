"""A prepared dataset: a manifest with one row per clip, and shards.

A prepared directory holds ``manifest.csv`` (the rows of `Clip`), ``dataset.json`` (name, revision, origin,
classes, counts, the settings of `prepare`), ``skipped.csv``, ``damaged.csv`` and ``shards/*.tar``. The shards
are uncompressed tar files; a row's offsets address a member's bytes directly: no reader needs to walk a tar.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xkd.config import Modality, PretrainConfig
from xkd.errors import UserError
from xkd.io import read_json, require_finished, short_hash, write_text

ROWS = "manifest.csv"
DATASET = "dataset.json"
WRITER = 3
"""Incremented when `prepare` makes other bytes of a clip: old directories are not taken for new ones."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip of a prepared dataset."""

    id: str
    splits: tuple[str, ...]
    """Split in each fold (most datasets have one): ``train``, ``val``, ``test`` or ``unused``."""
    labels: tuple[str, ...]
    shard: str
    """Path of the tar file, relative to the prepared directory."""
    video_offset: int | None
    """First byte of the mp4 in the shard; None: the clip has no video."""
    video_size: int | None
    audio_offset: int | None
    """First byte of the wav in the shard; None: the clip has no audio."""
    audio_size: int | None
    duration: float
    """Seconds that all modalities of the clip cover."""

    def has(self, *modalities: Modality) -> bool:
        """Return whether the shard holds all of these modalities."""
        return all(getattr(self, f"{modality}_offset") is not None for modality in modalities)

    def to_row(self) -> dict[str, str]:
        """Return the row of manifest.csv; None becomes an empty cell."""
        values = dataclasses.asdict(self) | {
            "splits": ";".join(self.splits),
            "labels": ";".join(self.labels),
            "duration": f"{self.duration:.6f}",
        }
        return {name: "" if value is None else str(value) for name, value in values.items()}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Clip:
        """Return the clip of a row of manifest.csv.

        Raises:
            KeyError, ValueError: a column is missing or not a number.
        """
        offsets = {name: int(row[name]) if row[name] else None for name in OFFSETS}
        return cls(
            id=row["id"],
            splits=tuple(row["splits"].split(";")),
            labels=tuple(filter(None, row["labels"].split(";"))),
            shard=row["shard"],
            duration=float(row["duration"]),
            **offsets,
        )


OFFSETS = ("video_offset", "video_size", "audio_offset", "audio_size")


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """A prepared dataset: its clips and their origin."""

    root: Path
    name: str
    revision: str
    """Revision of the source that the clips were prepared from."""
    classes: tuple[str, ...]
    """All labels, sorted: a label's index here is its number."""
    clips: tuple[Clip, ...]
    settings: Mapping[str, Any]
    """The settings of `prepare` that determine the bytes of the shards."""
    skipped: int = 0
    """Clips that could not be prepared (skipped.csv has the reasons)."""
    damaged: int = 0
    """Clips of which a part could not be decoded (damaged.csv has the parts)."""
    missing: int = 0
    """Clips whose files were missing (also in skipped.csv)."""
    lost_classes: tuple[str, ...] = ()
    """Labels of missing clips that no other clip has, and which are therefore not in `classes`."""
    origin: Mapping[str, str] | None = None
    """The registry that the source was fetched from: ``repo``, the commit ``rev``, DVC's ``hash``."""
    own: Mapping[str, Any] | None = None
    """Of a dataset of one's own: its layout, and how it was split and cut; None: an official dataset."""

    @classmethod
    def open(cls, root: Path) -> PreparedDataset:
        """Read a prepared directory. Takes seconds for large datasets: open it once and pass the object.

        Raises:
            UserError: the directory is missing, was not (completely) prepared, was prepared by a version that
                made other clips, or lacks a shard.
        """
        _require_prepared(root)
        try:
            values = json.loads((root / DATASET).read_text())
            if "settings" not in values:  # of a source that `fetch` made
                raise _unprepared(root)
            with (root / ROWS).open(newline="", encoding="utf-8") as file:
                clips = tuple(Clip.from_row(row) for row in csv.DictReader(file))
            _check_writer(root, values["settings"])
            fields = ("name", "revision", "settings", "skipped", "damaged", "origin")
            same = {name: values[name] for name in fields}
            classes, missing = tuple(values["classes"]), values["absent"]
            same |= {"lost_classes": tuple(values.get("lost_classes", ())), "own": values.get("own")}
            dataset = cls(root=root, classes=classes, clips=clips, missing=missing, **same)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}; prepare {root} again") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{root}: {ROWS} or {DATASET} is damaged ({error}); prepare it again") from None
        dataset._check_shards()
        return dataset

    def _check_shards(self) -> None:
        """Check that the shards exist and are long enough for the clips."""
        ends: dict[str, int] = {}
        for clip in self.clips:
            video, audio = (clip.video_offset or 0) + (clip.video_size or 0), clip.audio_offset or 0
            ends[clip.shard] = max(ends.get(clip.shard, 0), video, audio + (clip.audio_size or 0))
        for shard, end in sorted(ends.items()):
            path = self.root / shard
            if not path.is_file() or path.stat().st_size < end:
                problem = "is truncated" if path.is_file() else f"is missing, but {ROWS} lists it"
                raise UserError(f"{path} {problem}; prepare {self.root} again")

    def write(self) -> None:
        """Write manifest.csv, then dataset.json, whose presence marks the directory as complete."""
        columns = [field.name for field in dataclasses.fields(Clip)]
        write_table(self.root / ROWS, columns, (clip.to_row() for clip in self.clips))
        values = {
            "name": self.name,
            "revision": self.revision,
            "origin": self.origin,
            "classes": list(self.classes),
            "splits": self.counts,
            "seconds": round(self.seconds, 3),
            "without_audio": self.without_audio,
            "skipped": self.skipped,
            "damaged": self.damaged,
            "absent": self.missing,
            "lost_classes": list(self.lost_classes),
            **({"own": dict(self.own)} if self.own else {}),
            "settings": dict(self.settings),
        }
        write_text(self.root / DATASET, json.dumps(values, indent=1) + "\n")

    @property
    def seconds(self) -> float:
        """Duration of all clips."""
        return sum(clip.duration for clip in self.clips)

    @property
    def without_audio(self) -> int:
        """Number of clips without audio."""
        return sum(not clip.has("audio") for clip in self.clips)

    @property
    def folds(self) -> int:
        """Number of folds: the ways in which the dataset divides its clips into splits."""
        return len(self.clips[0].splits) if self.clips else 0

    @property
    def counts(self) -> dict[str, int]:
        """Number of clips per split, or per fold and split as ``fold 2 train``."""
        return {
            split if self.folds == 1 else f"fold {fold + 1} {split}": count
            for fold in range(self.folds)
            for split, count in sorted(Counter(clip.splits[fold] for clip in self.clips).items())
        }

    @property
    def preparation(self) -> str:
        """Twelve hexadecimal digits that identify the settings of the preparation and the clips."""
        return short_hash(json.dumps([sorted(self.settings.items()), [clip.id for clip in self.clips]]))

    @property
    def identity(self) -> dict[str, str]:
        """The fields of a score (`xkd.evaluation.score.Score`) that the dataset decides."""
        return {"data_revision": self.revision, "preparation": self.preparation}

    def check(self, config: PretrainConfig) -> None:
        """Check that a run of `config` can read the clips.

        Raises:
            UserError: the audio was prepared at another sample rate.
        """
        rate = self.settings.get("sample_rate")
        if rate != config.clip.sample_rate:
            raise UserError(
                f"{self.root} has audio at sample_rate {rate} but clip.sample_rate is "
                f"{config.clip.sample_rate}; prepare it again or change the setting"
            )

    def split(self, name: str, fold: int = 1) -> list[Clip]:
        """Return the clips of one split of a fold, in the manifest's order.

        Raises:
            UserError: the dataset has no such fold or split.
        """
        if not 1 <= fold <= self.folds:
            raise UserError(f"{self.root} has no fold {fold}; the number of folds is {self.folds}")
        clips = [clip for clip in self.clips if clip.splits[fold - 1] == name]
        if not clips:
            known = ", ".join(sorted({clip.splits[fold - 1] for clip in self.clips}))
            raise UserError(f"{self.root} has no split {name}; it has {known}")
        return clips


def dataset_name(root: Path) -> str:
    """Return the name of a prepared dataset without reading its clips.

    Raises:
        UserError: the directory is missing or was not (completely) prepared.
    """
    _require_prepared(root)
    return str(read_json(root / DATASET).get("name"))


def _check_writer(root: Path, settings: Mapping[str, Any]) -> None:
    if settings.get("writer") != WRITER:
        raise UserError(
            f"{root} was prepared by another version of xkd, whose colors and times differ; "
            "prepare the dataset again, in a new directory"
        )


def count_classes(labels: Collection[str]) -> str:
    """Return '2 classes', or 'no labels'."""
    return f"{len(labels)} class{'es' * (len(labels) != 1)}" if labels else "no labels"


def _require_prepared(root: Path) -> None:
    if not (root / DATASET).is_file():
        require_finished(root)
        if root.is_dir():
            raise _unprepared(root)
        raise UserError(f"{root} does not exist: make it with `xkd prepare SOURCE --out {root}`")


def _unprepared(root: Path) -> UserError:
    advice = f"run `xkd prepare {root} --out PREPARED` if it has your clips, and give PREPARED instead"
    return UserError(f"{root} is not prepared: {advice}")


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a CSV table with a header and Unix line ends atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
