"""The clips that a task trains and tests on, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xkd.config import Modality
from xkd.data.shards.clips import Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.evaluation.metrics import Labels, LabelSets, Metric

VALIDATION_SHARE = 0.2
"""Share of each class's training clips that C, or an epoch, is chosen on."""


class Splits(NamedTuple):
    """One fold of a dataset."""

    train: Clips
    test: Clips
    first: Clips
    """The training clips of the first fold."""
    dataset: PreparedDataset

    @property
    def untrained(self) -> list[str]:
        """The classes without training clips: all were skipped or missing, or lack the modality."""
        if not self.train:
            return []  # nothing is trained
        trained = {label for labels in self.train.distinct("labels")[0] for label in labels}
        known = (*self.dataset.classes, *self.dataset.lost_classes)
        return sorted(name for name in known if name not in trained)

    def hold_out(self, modality: Modality, seed: int) -> tuple[Clips, Clips]:
        """Divide the training clips into those to train on and those to choose an epoch on.

        The latter are the dataset's own validation clips where it also has a test split, as FSD50K; else a
        part of each class's training clips (by the first label of a clip with several).
        """
        clips = self.dataset.clips
        held_out = clips.match("splits", lambda splits: "val" in splits) & clips.match("labels", bool)
        own = clips.select(held_out & clips.has(modality))
        if "test" in clips.splits and own:
            return self.train, own
        held_out = validation_mask(self.first_label(self.train), seed)
        return self.train.select(~held_out), self.train.select(held_out)

    def label_sets(self, clips: Clips) -> LabelSets:
        """Return which of the classes each clip has, (clips, classes)."""
        column = {name: place for place, name in enumerate(self.dataset.classes)}
        distinct, places = clips.distinct("labels")
        sets = np.zeros((len(distinct), len(column)), dtype=bool)
        for row, labels in enumerate(distinct):
            sets[row, [column[label] for label in labels]] = True
        return sets[places]

    def first_label(self, clips: Clips) -> NDArray[np.int64]:
        """Return the class of each clip, (clips,); the first of several."""
        return np.asarray(self.label_sets(clips).argmax(axis=1), np.int64)


def read_splits(
    dataset: PreparedDataset, fold: int, modalities: Sequence[Modality], metric: Metric
) -> Splits:
    """Return the clips of a fold that have all the modalities; without a test split, test on val.

    In a dataset of one's own, clips may have no labels: they are left out. For ``recall`` nothing is trained:
    there are only test clips, and they need no labels.

    Raises:
        UserError: the dataset lacks the fold, a split, the modalities or labels.
    """

    def read(split: str, fold: int) -> Clips:
        clips = dataset.split(split, fold)
        clips = clips.select(clips.has(*modalities))
        if not clips:
            raise UserError(
                f"no clip of split {split} in {dataset.root} has {' and '.join(modalities)}; choose another "
                "modality"
            )
        if metric == "recall":
            return clips
        if dataset.own:
            clips = clips.select(clips.match("labels", bool))
            if not clips:
                raise UserError(f"no clip of split {split} in {dataset.root} has a label; label some")
        usable = clips.match("labels", lambda labels: len(labels) == 1 if metric == "top1" else labels)
        if not usable.all():
            needed, clip = "one label" if metric == "top1" else "labels", clips.select(~usable)[0]
            raise UserError(
                f"the protocol needs {needed} per clip; {clip.id} in {dataset.root} has {len(clip.labels)}"
            )
        return clips

    train = dataset.clips[:0] if metric == "recall" else read("train", fold)
    test = read("test" if "test" in dataset.clips.splits else "val", fold)
    return Splits(train, test, train if fold == 1 or not train else read("train", 1), dataset)


def validation_mask(labels: Labels, seed: int) -> NDArray[np.bool_]:
    """Mark the training clips to choose on: `VALIDATION_SHARE` of each class, never all of one.

    Whole clips are held out: windows of one clip resemble each other, so a clip on both sides would favor
    memorization.

    Raises:
        UserError: there are too few clips or classes.
    """
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(VALIDATION_SHARE * len(members))), len(members) - 1)
        held_out[members[:count]] = True
    if not held_out.any() or len(np.unique(labels)) < 2:
        raise UserError(
            "the protocol needs at least two classes, one of them with two training clips; "
            f"the train split has {len(labels)} clips of {len(np.unique(labels))} classes"
        )
    return held_out
