"""The clips that a task fits and tests on, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xkd.config import Modality
from xkd.data.shards.manifest import Clip, PreparedDataset
from xkd.errors import UserError
from xkd.evaluate.protocols.svm import validation_clips


class Splits(NamedTuple):
    """One fold of a dataset."""

    train: list[Clip]
    test: list[Clip]
    first: list[Clip]
    """The training clips of the first fold."""
    manifest: PreparedDataset

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in their order."""
        return self.manifest.classes

    def held_out(self, modality: Modality, seed: int) -> tuple[list[Clip], list[Clip]]:
        """Training clips, and others to choose an epoch by, none of which is tested on.

        The latter are the dataset's own validation clips where it has a test split beside them, as FSD50K;
        else some of each class's training clips, of the first label of those with several.
        """
        known = {split for clip in self.manifest.clips for split in clip.splits}
        own = [clip for clip in self.manifest.clips if "val" in clip.splits and clip.labels]
        own = [clip for clip in own if clip.has((modality,))]
        if "test" in known and own:
            return self.train, own
        chosen = validation_clips(self.label(self.train), seed)
        kept = [clip for clip, out in zip(self.train, chosen, strict=True) if not out]
        return kept, [clip for clip, out in zip(self.train, chosen, strict=True) if out]

    def labels(self, clips: list[Clip]) -> NDArray[np.bool_]:
        """(clips, classes), which of the classes each clip has."""
        number = {name: place for place, name in enumerate(self.classes)}
        found = np.zeros((len(clips), len(self.classes)), dtype=bool)
        for row, clip in enumerate(clips):
            found[row, [number[label] for label in clip.labels]] = True
        return found

    def label(self, clips: list[Clip]) -> NDArray[np.int64]:
        """(clips,), each one's class number; of several labels the first class."""
        return np.asarray(self.labels(clips).argmax(axis=1), np.int64)


def read_splits(
    manifest: PreparedDataset, dataset: str, fold: int, modalities: Sequence[Modality], *, one_label: bool
) -> Splits:
    """The clips of a fold that have the modalities; without a test split, the validation split is the test.

    Args:
        manifest: a prepared dataset.
        dataset: name that it must have.
        fold: which of its divisions, from 1.
        modalities: what the clips must have.
        one_label: whether several labels of a clip are a mistake.

    Raises:
        UserError: it holds another dataset, or lacks the fold, a split, the modalities or labels.
    """
    data = manifest.root
    if manifest.name != dataset:
        raise UserError(f"the task is for dataset {dataset}, but {data} holds {manifest.name}")

    def of(split: str, number: int) -> list[Clip]:
        clips = [clip for clip in manifest.split(split, number) if clip.has(modalities)]
        if not clips:
            raise UserError(
                f"no clip of split {split} in {data} has {' and '.join(modalities)}; choose another modality"
            )
        for clip in clips:
            if not clip.labels or (one_label and len(clip.labels) > 1):
                wanted = "one label" if one_label else "labels"
                raise UserError(
                    f"the protocol needs {wanted} a clip; {clip.id} in {data} has {len(clip.labels)}"
                )
        return clips

    train = of("train", fold)
    test = of("test" if any("test" in clip.splits for clip in manifest.clips) else "val", fold)
    return Splits(train, test, train if fold == 1 else of("train", 1), manifest)
