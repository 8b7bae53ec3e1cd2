"""Windows of prepared clips for evaluation: to be looked at as they are, and to be fine-tuned on.

As in pretraining, whatever is random has a generator of its own for each clip, here keyed by its name.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from xkd.config import MODALITIES, FinetuneConfig, Modality, PretrainConfig
from xkd.data.datasets.training import generator
from xkd.data.shards.manifest import Clip, PreparedDataset
from xkd.data.shards.media import MediaError
from xkd.data.shards.reader import Item, WindowReader, load_batches
from xkd.data.transforms.finetune import rand_augment
from xkd.data.transforms.params import draw, finetune_recipe, linear_recipe
from xkd.errors import UserError
from xkd.parallel.threads import in_threads

_BATCH_WINDOWS = 32
"""About as many windows an evaluation batch has."""
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
) -> Iterator[Item]:
    """`count` windows of every clip, in the clips' order, some tens of windows a batch.

    Args:
        dataset: a prepared dataset.
        clips: some of its clips.
        config: the run's.
        count: windows of each clip.
        train: random windows with ``draws`` for the linear evaluation's augmentation
            (`draws.linear_recipe`), instead of evenly spaced ones to be seen plainly (`Views.plain`).
        seed: of the random windows.
        modalities: what to read; the clips must have it.

    Yields:
        ``clip`` each window's place in `clips`, (B,); as asked for ``frames`` uint8 (B, T, 3, H, W),
        ``waveform`` float32 (B, S), ``draws``.

    Raises:
        UserError: a clip cannot be read.
    """
    windows = _EvaluationClips(dataset, clips, config, count, seed if train else None, modalities)
    size = max(1, _BATCH_WINDOWS // count)
    batches = [list(range(first, min(first + size, len(clips)))) for first in range(0, len(clips), size)]
    return load_batches(windows, batches, config.run.workers)


class FinetuneClips(Dataset[Item]):
    """Labeled clips of one modality; an item is a random window and its view's draws.

    Args:
        dataset: a prepared dataset.
        clips: some of its clips.
        config: the run's, with the global view that is fine-tuned on.
        modality: what is read.
        tuning: the augmentation.
        seed: of everything drawn.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        clips: Sequence[Clip],
        config: PretrainConfig,
        modality: Modality,
        tuning: FinetuneConfig,
        seed: int,
    ) -> None:
        self._clips, self._config, self._modality, self._tuning = clips, config, modality, tuning
        self._reader, self._recipe, self._seed = (
            WindowReader(dataset, config),
            finetune_recipe(config, tuning),
            seed,
        )

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """The window of clip `index` in `epoch`, key = (epoch, index).

        Returns:
            ``frames`` uint8 (T, 3, H, W) after RandAugment or ``waveform`` float32 (S,); ``draws`` (see
            `draws.draw`), ``clip`` its place.

        Raises:
            UserError: the clip cannot be read.
        """
        epoch, index = key
        clip = self._clips[index]
        rng = generator(_FINETUNE, self._seed, epoch, zlib.crc32(clip.id.encode()))
        start = rng.uniform(0.0, max(0.0, clip.duration - self._config.clip.seconds))
        windows = _read(self._reader, clip, [start], (self._modality,))
        item: Item = {name: window[0] for name, window in windows.items()}
        height, width = self._config.video.global_view[1:]
        if "frames" in item:
            item["frames"] = rand_augment(item["frames"], self._tuning.video, int(rng.integers(2**32)))
            height, width = item["frames"].shape[-2:]
        return item | {"draws": draw(rng, self._recipe, self._config, height, width), "clip": index}

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Item]:
        """A whole batch; without loader workers its clips are decoded in threads."""
        return in_threads(self.__getitem__, keys)


class _EvaluationClips(Dataset[list[Item]]):
    """An item is all windows of one clip; they are decoded together."""

    def __init__(
        self,
        dataset: PreparedDataset,
        clips: Sequence[Clip],
        config: PretrainConfig,
        count: int,
        seed: int | None,
        modalities: Sequence[Modality],
    ) -> None:
        self._clips, self._config, self._count, self._seed = clips, config, count, seed
        self._reader, self._recipe, self._modalities = (
            WindowReader(dataset, config),
            linear_recipe(config),
            modalities,
        )

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> list[Item]:
        clip = self._clips[index]
        spare = max(0.0, clip.duration - self._config.clip.seconds)
        # Keyed by the clip's name, not its place: which other clips are asked for changes nothing.
        rng = None if self._seed is None else generator(_EVALUATION, self._seed, zlib.crc32(clip.id.encode()))
        starts = np.linspace(0, spare, self._count) if rng is None else rng.uniform(0, spare, self._count)
        items: list[Item] = [{"clip": index} for _ in starts]
        windows = _read(self._reader, clip, starts.tolist(), self._modalities)
        height, width = self._config.video.global_view[1:]
        if "frames" in windows:
            if rng is None:
                windows["frames"] = _center(windows["frames"], height, width)
            height, width = windows["frames"].shape[-2:]
        for name, parts in windows.items():
            for item, part in zip(items, parts, strict=True):
                item[name] = part
        if rng is not None:
            for item in items:
                item["draws"] = draw(rng, self._recipe, self._config, height, width)
        return items


def _read(
    reader: WindowReader, clip: Clip, starts: Sequence[float], modalities: Sequence[Modality]
) -> dict[str, Tensor]:
    """Windows of a clip that an evaluation cannot do without."""
    try:
        return reader.read(clip, starts, modalities)
    except MediaError as error:
        raise UserError(f"clip {clip.id} cannot be read ({error}); prepare its dataset again") from None


def _center(frames: Tensor, height: int, width: int) -> Tensor:
    top, left = (frames.shape[-2] - height) // 2, (frames.shape[-1] - width) // 2
    return frames[..., top : top + height, left : left + width]
