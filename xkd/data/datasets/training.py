"""Random windows of prepared clips for pretraining, and the order of the clips.

Every (seed, epoch, clip) has its own random generator, so a window and the parameters of its views depend on
neither the number of workers nor the other clips of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset

from xkd.config import PretrainConfig, check_division
from xkd.data.media.damage import MediaError
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.reader import WindowReader, load_batches
from xkd.data.transforms.params import Item, pretrain_views, with_params
from xkd.data.transforms.views import Views
from xkd.errors import UserError, prefixed
from xkd.log import get_logger
from xkd.parallel.threads import in_threads

SHORTEST = 1.1
"""Seconds that a training clip must exceed, in each modality: the authors' rule for Kinetics400."""
_ATTEMPTS = 10
"""Unreadable clips in a row after which a run stops."""
_ORDER, _WINDOW = range(2)
"""Purposes of random generators, so that no two share a stream; `evaluation` continues the numbers."""


class TrainingClips(Dataset[Item]):
    """The clips of a split that have all trained modalities; an item is a random window.

    `config.run.seed` seeds everything drawn.

    Raises:
        UserError: the split is missing, no clip has all of `config.modalities`, or they were prepared without
            all that the run sees.
    """

    def __init__(self, dataset: PreparedDataset, config: PretrainConfig, split: str = "train") -> None:
        dataset.check(config, config.modalities)
        self.dataset, self.config = dataset, config
        listed = dataset.split(split)
        complete = listed.select(listed.has(*config.modalities))
        self.clips = complete.select(complete.durations > SHORTEST)
        self.without_modality = len(listed) - len(complete)
        """Clips of the split that lack one of `config.modalities`."""
        self.specs = pretrain_views(config)
        """The views whose parameters the items have."""
        self.too_short = len(complete) - len(self.clips)
        """Clips that have them and last no longer than `SHORTEST`."""
        self._reader = WindowReader(dataset, config, self.clips if config.optim.epochs > 1 else None)
        if not self.clips:
            raise UserError(
                f"{dataset.root}: no clip of split {split} has {' and '.join(config.modalities)} "
                f"and lasts over {SHORTEST} s; prepare other clips or set modalities"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def count_steps(self, world_size: int = 1) -> tuple[int, int]:
        """Return the number of steps of the run and of an epoch.

        Raises:
            UserError: see `steps_per_epoch`.
        """
        optim = self.config.optim
        with prefixed("optim."):
            per_epoch = steps_per_epoch(len(self), optim.batch_size, world_size, self.config.run.accumulate)
        return optim.epochs * per_epoch, per_epoch

    def batches(
        self, first: int, steps: int, rank: int = 0, world_size: int = 1, views: Views | None = None
    ) -> Iterator[Item]:
        """Yield this process's parts of the batches of steps `first` to `steps` - 1, decoded by workers.

        Frames of unequal sizes are padded at the right and the bottom; views never look there. `views` are as
        of `load_batches`.

        Raises:
            UserError: see `__getitem__`.
        """
        batch_size, run = self.config.optim.batch_size, self.config.run
        keys = batch_keys(len(self), batch_size, run.seed, first, steps, rank, world_size, run.accumulate)
        return load_batches(self, keys, run.workers, views)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """Return a random window for a key (epoch, index of a clip), with the parameters of its views.

        A clip that cannot be read is reported and replaced by another, drawn from the same seed.

        Raises:
            UserError: many clips in a row cannot be read.
        """
        epoch, index = key
        for attempt in range(_ATTEMPTS):
            rng = generator(_WINDOW, self.config.run.seed, epoch, index, attempt)
            place = int(rng.integers(len(self.clips))) if attempt else index
            clip = self.clips[place]
            start = rng.uniform(0.0, max(0.0, clip.duration - self.config.clip.seconds))
            try:
                (item,) = self._reader.read(clip, [start], self.config.modalities)
            except MediaError as error:
                problem = f"clip {clip.id} of {self.dataset.root} cannot be read ({error})"
                get_logger(__name__).warning("%s; using another clip", problem)
                continue
            item["clip"], item["skipped"] = torch.tensor(place), torch.tensor(attempt)
            return with_params(item, rng, self.specs, self.config)
        raise UserError(f"{problem}, nor {_ATTEMPTS - 1} others; prepare the dataset again")

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Item]:
        """Return a whole batch, decoded in threads where there are no loader workers."""
        return in_threads(self.__getitem__, keys)


def steps_per_epoch(clips: int, batch_size: int, world_size: int = 1, accumulate: int = 1) -> int:
    """Return the global batches of one pass over the clips; an incomplete last batch is dropped.

    Raises:
        UserError: a batch needs more clips than there are, or does not divide into equal parts.
    """
    if clips < batch_size:
        raise UserError(
            f"batch_size {batch_size} exceeds the number of training clips, {clips}; reduce it, for example "
            f"to {2 ** (clips.bit_length() - 1)}"
        )
    check_division(batch_size, world_size, accumulate)
    return clips // batch_size


def batch_keys(
    length: int,
    batch_size: int,
    seed: int,
    first: int,
    steps: int,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
) -> Iterator[list[tuple[int, int]]]:
    """Yield the (epoch, index) keys of one process's parts of the batches, from step `first` up to `steps`.

    Each epoch is one permutation of the clips, cut into global batches (the rest is dropped); a process
    takes a contiguous share of each, in `accumulate` parts one after the other. So the global batches
    depend on the number of neither the processes nor the parts. `batch_size` counts the clips of a global
    batch.

    Raises:
        UserError: see `steps_per_epoch`.
    """
    per_epoch = steps_per_epoch(length, batch_size, world_size, accumulate)
    part = batch_size // (world_size * accumulate)
    order, shuffled = np.arange(length), -1
    for step in range(first, steps):
        epoch, number = divmod(step, per_epoch)
        if epoch != shuffled:
            order, shuffled = generator(_ORDER, seed, epoch).permutation(length), epoch
        begin = number * batch_size + rank * accumulate * part
        for start in range(begin, begin + accumulate * part, part):
            yield [(epoch, int(index)) for index in order[start : start + part]]


def generator(purpose: int, *key: int) -> np.random.Generator:
    """Return a generator for one purpose and key; no other pair has its stream."""
    return np.random.default_rng((purpose, *key))
