"""A prepared dataset: a manifest with one row per clip, and shards.

A prepared directory holds ``manifest.csv`` (the rows of `Clip`), ``manifest.arrow`` (the same as columns),
``dataset.json`` (name, revision, origin, classes, counts, the settings of `prepare`), ``skipped.csv``,
``damaged.csv`` and ``shards/*.tar``. The shards are uncompressed tar files; a row's offsets address a
member's bytes directly: no reader needs to walk a tar.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xkd.config import Modality, PretrainConfig
from xkd.data.shards.clips import Clips
from xkd.data.shards.table import ROWS, read_clips, write_clips
from xkd.errors import UserError, prefixed
from xkd.io import short_hash, write_text
from xkd.output import require_finished

DATASET = "dataset.json"
WRITER = 3
"""Incremented when `prepare` makes other bytes of a clip: old directories are not taken for new ones."""


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """A prepared dataset: its clips and their origin."""

    root: Path
    name: str
    revision: str
    """Revision of the source that the clips were prepared from."""
    classes: tuple[str, ...]
    """All labels, sorted: a label's index here is its number."""
    clips: Clips
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
        """Open a prepared directory.

        Raises:
            UserError: the directory is missing, was not (completely) prepared, was prepared by a version that
                made other clips, or lacks a shard.
        """
        _require_prepared(root)
        try:
            values = json.loads((root / DATASET).read_text())
            if "settings" not in values:  # of a source that `fetch` made
                raise _unprepared(root)
            clips = read_clips(root)
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
        for shard, end in sorted(self.clips.shard_ends().items()):
            path = self.root / shard
            if not path.is_file() or path.stat().st_size < end:
                problem = "is truncated" if path.is_file() else f"is missing, but {ROWS} lists it"
                raise UserError(f"{path} {problem}; prepare {self.root} again")

    def write(self) -> None:
        """Write the clips, then dataset.json, whose presence marks the directory as complete."""
        write_clips(self.root, self.clips)
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
        return float(self.clips.durations.sum())

    @property
    def without_audio(self) -> int:
        """Number of clips without audio."""
        return int((~self.clips.has("audio")).sum())

    @property
    def folds(self) -> int:
        """Number of folds: the ways in which the dataset divides its clips into splits."""
        return len(self.clips[0].splits) if self.clips else 0

    @property
    def counts(self) -> dict[str, int]:
        """Number of clips per split, or per fold and split as ``fold 2 train``."""
        values, places = self.clips.distinct("splits")
        clips = np.bincount(places, minlength=len(values)).tolist()
        counts: Counter[tuple[int, str]] = Counter()
        for splits, count in zip(values, clips, strict=True):
            counts.update(dict.fromkeys(enumerate(splits, 1), count))
        return {
            split if self.folds == 1 else f"fold {fold} {split}": count
            for (fold, split), count in sorted(counts.items())
        }

    @cached_property
    def preparation(self) -> str:
        """Twelve hexadecimal digits that identify the settings of the preparation and the clips."""
        return short_hash(json.dumps([sorted(self.settings.items()), self.clips.ids]))

    @property
    def identity(self) -> dict[str, str]:
        """The fields of a score (`xkd.evaluation.score.Score`) that the dataset decides."""
        return {"data_revision": self.revision, "preparation": self.preparation}

    def check(self, config: PretrainConfig, modalities: Iterable[Modality]) -> None:
        """Check that the clips have all that a run of `config` sees of `modalities`, if they have them.

        Raises:
            UserError: see `check_preparation`.
        """
        present = [modality for modality in modalities if self.clips.has(modality).any()]
        with prefixed(f"{self.root}: "):
            check_preparation(self.settings, config, present, "prepare it again with --set {}")

    def split(self, name: str, fold: int = 1) -> Clips:
        """Return the clips of one split of a fold, in the manifest's order.

        Raises:
            UserError: the dataset has no such fold or split.
        """
        if not 1 <= fold <= self.folds:
            raise UserError(f"{self.root} has no fold {fold}; the number of folds is {self.folds}")
        clips = self.clips.select(self.clips.match("splits", lambda splits: splits[fold - 1] == name))
        if not clips:
            known = ", ".join(sorted({splits[fold - 1] for splits in self.clips.distinct("splits")[0]}))
            raise UserError(f"{self.root} has no split {name}; it has {known}")
        return clips


def check_preparation(
    settings: Mapping[str, Any], config: PretrainConfig, modalities: Collection[Modality], remedy: str
) -> None:
    """Check that clips prepared with `settings` have all that a run of `config` sees of `modalities`.

    Args:
        remedy: what to do, with ``{}`` for the setting and its value.

    Raises:
        UserError: the frames are smaller or fewer than the run's, or the audio has another sample rate.
    """
    clip, height, rate = config.clip, config.video.global_view[1], config.clip.sample_rate
    for modality, setting, name, needed, suffices in (
        ("video", "video.global_view", "short_side", height, settings["short_side"] >= height),
        ("video", "clip.fps", "max_fps", clip.fps, (settings["max_fps"] or clip.fps) >= clip.fps),
        ("audio", "clip.sample_rate", "sample_rate", rate, settings["sample_rate"] == rate),
    ):
        if modality in modalities and not suffices:
            raise UserError(
                f"{setting} needs clips prepared with {name}={needed:g}, not {settings[name]:g}; "
                + remedy.format(f"{name}={needed:g}")
            )


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
