"""Windows of prepared clips, for training and for evaluation.

Whatever is random is drawn from a generator of its own for each (seed, epoch, clip), so a window and
its draws depend on neither the number of workers nor the clips that share its batch.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.data.draws import draw, linear_recipe, pretrain_recipe
from xkd.data.manifest import Clip
from xkd.data.media import MediaError
from xkd.data.reading import Item, Windows, load_batches, open_manifest
from xkd.data.threads import in_threads
from xkd.errors import UserError

SHORTEST = 1.1
"""Seconds that a clip trained on lasts at least, in each modality: the authors' rule for Kinetics400."""
_ATTEMPTS = 10
"""Unreadable clips in a row before a run stops."""
_EVALUATION_WINDOWS = 32
"""About as many windows an evaluation batch has."""
_ORDER, _WINDOW, _EVALUATION = range(3)
"""Purposes of random generators, so that no two share a stream."""


class TrainingClips(Dataset[Item]):
    """The clips of one split that have what is trained; an item is a random window and its views' draws.

    Args:
        prepared: directory that `prepare` wrote.
        config: the run's; `run.seed` seeds everything drawn.
        split: split to train on.

    Raises:
        UserError: the directory or the split is missing, no clip has all of `config.modalities`, or the
            audio was prepared at another sample rate.
    """

    def __init__(self, prepared: Path, config: PretrainConfig, split: str = "train") -> None:
        self.manifest, self.config = open_manifest(prepared, config), config
        listed = self.manifest.split(split)
        complete = [clip for clip in listed if clip.has(config.modalities)]
        self.clips = [clip for clip in complete if clip.duration > SHORTEST]
        self.without_modality = len(listed) - len(complete)
        """Clips of the split that lack one of `config.modalities`."""
        self.too_short = len(complete) - len(self.clips)
        """Clips that have them and last no longer than `SHORTEST`."""
        if not self.clips:
            needed = " and ".join(config.modalities)
            raise UserError(
                f"{prepared}: no clip of split {split} has {needed}, as training needs, for over {SHORTEST} s"
            )
        self._windows, self._recipe = Windows(prepared, config), pretrain_recipe(config)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """The window of clip `index` in `epoch`, key = (epoch, index).

        A clip that cannot be read is reported and replaced by another, drawn from the same seed.

        Returns:
            as trained ``frames`` uint8 (T, 3, H, W), ``waveform`` float32 (S,); ``draws`` (see `draws.draw`),
            ``clip`` its place in `clips`, ``skipped`` unreadable clips that were tried before it.

        Raises:
            UserError: many clips in a row cannot be read.
        """
        epoch, index = key
        problem = ""
        for attempt in range(_ATTEMPTS):
            rng = _generator(_WINDOW, self.config.run.seed, epoch, index, attempt)
            place = int(rng.integers(len(self.clips))) if attempt else index
            clip = self.clips[place]
            start = rng.uniform(0.0, max(0.0, clip.duration - self.config.clip.seconds))
            try:
                windows = self._windows.read(clip, [start], self.config.modalities)
            except MediaError as error:
                problem = f"clip {clip.id} of {self.manifest.root} cannot be read ({error})"
                print(f"xkd: {problem}; another takes its place", file=sys.stderr, flush=True)
                continue
            item: Item = {name: window[0] for name, window in windows.items()}
            height, width = (
                item["frames"].shape[-2:] if "frames" in item else self.config.video.global_view[1:]
            )
            draws = draw(rng, self._recipe, self.config, height, width)
            return item | {"draws": draws, "clip": place, "skipped": attempt}
        raise UserError(f"{problem}, nor {_ATTEMPTS - 1} others; prepare the dataset again")

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Item]:
        """A whole batch; without loader workers its clips are decoded in threads."""
        return in_threads(self.__getitem__, keys)


def steps_per_epoch(clips: int, batch_size: int, world_size: int = 1, accumulate: int = 1) -> int:
    """Global batches in one pass over the clips; what does not fill one is left for another epoch.

    Raises:
        UserError: a batch needs more clips than there are, or does not divide into equal parts.
    """
    if clips < batch_size:
        raise UserError(
            f"optim.batch_size {batch_size} is more than the {clips} training clips; set it lower"
        )
    check_division(batch_size, world_size, accumulate)
    return clips // batch_size


def check_division(batch_size: int, world_size: int, accumulate: int) -> None:
    """Does a global batch divide into equal parts?

    Raises:
        UserError: it does not.
    """
    if batch_size % (world_size * accumulate):
        raise UserError(
            f"optim.batch_size {batch_size} must be a multiple of the {world_size} processes times "
            f"run.accumulate {accumulate}"
        )


class ClipSampler(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) keys of one process's parts of the batches, from step `first` up to `steps`.

    Each epoch is one permutation of the clips, cut into global batches (the rest is dropped); a process
    takes a contiguous share of each, in `accumulate` parts one after the other. So the global batches
    depend neither on the number of processes nor on that of the parts.

    Args:
        length: number of clips.
        batch_size: clips of a global batch; a multiple of `world_size` times `accumulate`.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        first: int,
        steps: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.per_epoch = steps_per_epoch(length, batch_size, world_size, accumulate)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first, self.steps, self.rank, self.accumulate = first, steps, rank, accumulate
        self.part = batch_size // (world_size * accumulate)

    def __len__(self) -> int:
        return max(0, self.steps - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, shuffled = np.arange(self.length), -1
        for step in range(self.first, self.steps):
            epoch, number = divmod(step, self.per_epoch)
            if epoch != shuffled:
                order, shuffled = _generator(_ORDER, self.seed, epoch).permutation(self.length), epoch
            begin = number * self.batch_size + self.rank * self.accumulate * self.part
            for part in range(self.accumulate):
                here = begin + part * self.part
                yield [(epoch, int(index)) for index in order[here : here + self.part]]


def training_batches(
    clips: TrainingClips, config: PretrainConfig, first: int, steps: int, rank: int = 0, world_size: int = 1
) -> Iterator[Item]:
    """This process's parts of the batches of steps `first` … `steps` - 1, decoded ahead by `run.workers`.

    Yields:
        the items of `TrainingClips`, stacked; frames of unequal sizes are padded at the right and the
        bottom (views never look there).

    Raises:
        UserError: see `TrainingClips.__getitem__` and `ClipSampler`.
    """
    batch_size, run = config.optim.batch_size, config.run
    sampler = ClipSampler(len(clips), batch_size, run.seed, first, steps, rank, world_size, run.accumulate)
    return load_batches(clips, sampler, config.run.workers)


def evaluation_batches(
    data: Path,
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
        data: prepared directory that holds the clips.
        clips: rows of its manifest.
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
    open_manifest(data, config)
    windows = _EvaluationClips(data, clips, config, count, seed if train else None, modalities)
    size = max(1, _EVALUATION_WINDOWS // count)
    batches = [list(range(first, min(first + size, len(clips)))) for first in range(0, len(clips), size)]
    return load_batches(windows, batches, config.run.workers)


class _EvaluationClips(Dataset[list[Item]]):
    """An item is all windows of one clip; they are decoded together."""

    def __init__(
        self,
        data: Path,
        clips: Sequence[Clip],
        config: PretrainConfig,
        count: int,
        seed: int | None,
        modalities: Sequence[Modality],
    ) -> None:
        self._clips, self._config, self._count, self._seed = clips, config, count, seed
        self._windows, self._recipe, self._modalities = (
            Windows(data, config),
            linear_recipe(config),
            modalities,
        )

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> list[Item]:
        clip = self._clips[index]
        spare = max(0.0, clip.duration - self._config.clip.seconds)
        # Keyed by the clip's name, not its place: which other clips are asked for changes nothing.
        rng = (
            None if self._seed is None else _generator(_EVALUATION, self._seed, zlib.crc32(clip.id.encode()))
        )
        starts = np.linspace(0, spare, self._count) if rng is None else rng.uniform(0, spare, self._count)
        items: list[Item] = [{"clip": index} for _ in starts]
        try:
            windows = self._windows.read(clip, starts.tolist(), self._modalities)
        except MediaError as error:
            raise UserError(f"clip {clip.id} cannot be read ({error}); prepare its dataset again") from None
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


def _center(frames: Tensor, height: int, width: int) -> Tensor:
    top, left = (frames.shape[-2] - height) // 2, (frames.shape[-1] - width) // 2
    return frames[..., top : top + height, left : left + width]


def _generator(purpose: int, *key: int) -> np.random.Generator:
    return np.random.default_rng((purpose, *key))
