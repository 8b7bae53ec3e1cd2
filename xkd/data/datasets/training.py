"""Windows of prepared clips for pretraining, and the order they are seen in.

Whatever is random is drawn from a generator of its own for each (seed, epoch, clip), so a window and
its draws depend on neither the number of workers nor the clips that share its batch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Dataset, Sampler

from xkd.config import PRETRAIN_NAMES, PretrainConfig, check_division
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.media import MediaError
from xkd.data.shards.reader import Item, WindowReader, load_batches
from xkd.data.transforms.params import draw, pretrain_recipe
from xkd.errors import UserError
from xkd.parallel.threads import in_threads

SHORTEST = 1.1
"""Seconds that a clip trained on lasts at least, in each modality: the authors' rule for Kinetics400."""
_ATTEMPTS = 10
"""Unreadable clips in a row before a run stops."""
_ORDER, _WINDOW = range(2)
"""Purposes of random generators, so that no two share a stream; `evaluation` continues the numbers."""


class TrainingClips(Dataset[Item]):
    """The clips of one split that have what is trained; an item is a random window and its views' draws.

    Args:
        dataset: a prepared dataset.
        config: the run's; `run.seed` seeds everything drawn.
        split: split to train on.

    Raises:
        UserError: the split is missing, no clip has all of `config.modalities`, or the
            audio was prepared at another sample rate.
    """

    def __init__(self, dataset: PreparedDataset, config: PretrainConfig, split: str = "train") -> None:
        self.dataset, self.config = dataset, config
        self._reader, self._recipe = WindowReader(dataset, config), pretrain_recipe(config)
        listed = dataset.split(split)
        complete = [clip for clip in listed if clip.has(config.modalities)]
        self.clips = [clip for clip in complete if clip.duration > SHORTEST]
        self.without_modality = len(listed) - len(complete)
        """Clips of the split that lack one of `config.modalities`."""
        self.too_short = len(complete) - len(self.clips)
        """Clips that have them and last no longer than `SHORTEST`."""
        if not self.clips:
            needed = " and ".join(config.modalities)
            raise UserError(
                f"{dataset.root}: no clip of split {split} has {needed}, as training needs, "
                f"for over {SHORTEST} s"
            )

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
            rng = generator(_WINDOW, self.config.run.seed, epoch, index, attempt)
            place = int(rng.integers(len(self.clips))) if attempt else index
            clip = self.clips[place]
            start = rng.uniform(0.0, max(0.0, clip.duration - self.config.clip.seconds))
            try:
                windows = self._reader.read(clip, [start], self.config.modalities)
            except MediaError as error:
                problem = f"clip {clip.id} of {self.dataset.root} cannot be read ({error})"
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


def steps_per_epoch(
    clips: int,
    batch_size: int,
    world_size: int = 1,
    accumulate: int = 1,
    names: tuple[str, str] = PRETRAIN_NAMES,
) -> int:
    """Global batches in one pass over the clips; what does not fill one is left for another epoch.

    Raises:
        UserError: a batch needs more clips than there are, or does not divide into equal parts; `names`
            are the settings that say so.
    """
    if clips < batch_size:
        raise UserError(f"{names[0]} {batch_size} is more than the {clips} training clips; set it lower")
    check_division(batch_size, world_size, accumulate, names)
    return clips // batch_size


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
                order, shuffled = generator(_ORDER, self.seed, epoch).permutation(self.length), epoch
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


def generator(purpose: int, *key: int) -> np.random.Generator:
    """A generator for one purpose and key; no other pair has its stream."""
    return np.random.default_rng((purpose, *key))
