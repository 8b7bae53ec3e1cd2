"""Windows of prepared clips for evaluation: for frozen features and predictions, and for fine-tuning.

As in pretraining, every clip has its own random generator, here keyed by its id instead of its index.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from xkd.config import MODALITIES, FinetuneConfig, Modality, PretrainConfig
from xkd.data.datasets.training import generator
from xkd.data.media.damage import MediaError
from xkd.data.shards.clips import Clip
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.reader import WindowReader, load_batches
from xkd.data.transforms.finetune import rand_augment
from xkd.data.transforms.params import Item, finetune_views, linear_views, with_params
from xkd.data.transforms.views import Views, center_crop
from xkd.errors import UserError
from xkd.parallel.threads import in_threads

_EVALUATION, _FINETUNE = 2, 3
"""Purposes of random generators, after those of `xkd.data.datasets.training`."""


def evaluation_batches(
    dataset: PreparedDataset,
    clips: Sequence[Clip],
    config: PretrainConfig,
    count: int,
    *,
    train: bool = False,
    seed: int = 0,
    modalities: Sequence[Modality] = MODALITIES,
    views: Views | None = None,
) -> Iterator[Item]:
    """Yield `count` windows of every clip, in the order of `clips`, some tens of windows per batch.

    Args:
        clips: of the dataset, with the modalities.
        train: random windows with parameters for the linear evaluation's augmentation (`linear_views`),
            instead of evenly spaced ones, center-cropped for `Views.plain`.
        seed: of the random windows.
        views: as of `load_batches`, of random windows.

    Raises:
        UserError: a clip cannot be read, or was prepared without all that the encoder sees.
    """
    dataset.check(config, modalities)
    reader = WindowReader(dataset, config)
    windows = _EvaluationClips(reader, clips, count, seed if train else None, modalities)
    size = max(1, 32 // count)
    batches = [range(first, min(first + size, len(clips))) for first in range(0, len(clips), size)]
    return load_batches(windows, batches, config.run.workers, views if train else None)


@dataclass(frozen=True)
class FinetuneClips(Dataset[Item]):
    """Labeled clips of one modality; an item is a random window, its frames after RandAugment."""

    reader: WindowReader
    """Of windows for the global view to fine-tune on."""
    clips: Sequence[Clip]
    modality: Modality
    tuning: FinetuneConfig
    seed: int
    """Of everything drawn."""

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """Return a random window for a key (epoch, index of a clip), with the parameters of its view.

        Raises:
            UserError: the clip cannot be read.
        """
        epoch, index = key
        clip, config = self.clips[index], self.reader.config
        rng = generator(_FINETUNE, self.seed, epoch, zlib.crc32(clip.id.encode()))
        start = rng.uniform(0.0, max(0.0, clip.duration - config.clip.seconds))
        (item,) = _read(self.reader, clip, [start], (self.modality,))
        item["clip"] = torch.tensor(index)
        if "frames" in item:
            item["frames"] = rand_augment(item["frames"], self.tuning.video, int(rng.integers(2**32)))
        return with_params(item, rng, finetune_views(config, self.tuning), config)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Item]:
        """Return a whole batch, decoded in threads where there are no loader workers."""
        return in_threads(self.__getitem__, keys)


@dataclass(frozen=True)
class _EvaluationClips(Dataset[list[Item]]):
    """An item is all windows of one clip, which are decoded together."""

    reader: WindowReader
    clips: Sequence[Clip]
    count: int
    seed: int | None
    """Of random windows; None for evenly spaced ones."""
    modalities: Sequence[Modality]

    def __getitem__(self, index: int) -> list[Item]:
        clip, config, rng = self.clips[index], self.reader.config, None
        spare = max(0.0, clip.duration - config.clip.seconds)
        starts = np.linspace(0, spare, self.count)
        if self.seed is not None:
            # Keyed by the clip's id, not its index: the selection of clips changes no window.
            rng = generator(_EVALUATION, self.seed, zlib.crc32(clip.id.encode()))
            starts = rng.uniform(0, spare, self.count)
        items = _read(self.reader, clip, starts.tolist(), self.modalities)
        for item in items:
            item["clip"] = torch.tensor(index)
            # Before collation, which pads frames of unequal sizes and would move their center.
            if rng is None and "frames" in item:
                item["frames"] = center_crop(item["frames"], *config.video.global_view[1:])
        return [with_params(item, rng, linear_views(config), config) for item in items] if rng else items


def _read(
    reader: WindowReader, clip: Clip, starts: Sequence[float], modalities: Sequence[Modality]
) -> list[Item]:
    """Read windows of a clip that an evaluation must not skip."""
    try:
        return reader.read(clip, starts, modalities)
    except MediaError as error:
        raise UserError(f"clip {clip.id} cannot be read ({error}); prepare its dataset again") from None
