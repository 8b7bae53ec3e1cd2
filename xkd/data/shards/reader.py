"""Read windows of prepared clips, and collate them into batches."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from xkd.config import Modality, PretrainConfig
from xkd.data.media.damage import MediaError
from xkd.data.media.prepared import WAV_HEADER, read_video, to_waveform
from xkd.data.shards.clips import Clip, Clips
from xkd.data.shards.decoded import DecodedClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.params import Item
from xkd.data.transforms.resample import resize_short_side
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.parallel.processes import stop_signals_held

_LONGEST_FOLDER = 107 - len("/pymp-00000000/listener-00000000")
"""Bytes of a path in which multiprocessing can create its sockets: their paths have at most 107 (unix(7))."""


class WindowReader:
    """Reader of windows of the clips of a prepared dataset.

    Files are opened for each read, so that the workers that a loader forks share none.

    Args:
        repeated: clips that are read in many epochs, whose frames are kept if they are few (`DecodedClips`).

    Raises:
        UserError: the audio was prepared at another sample rate.
    """

    def __init__(
        self, dataset: PreparedDataset, config: PretrainConfig, repeated: Clips | None = None
    ) -> None:
        dataset.check(config, ["audio"])
        self.root, self.config = dataset.root, config
        kept = dataset.clips[:0] if repeated is None else repeated
        self._decoded = DecodedClips(dataset, kept, config.video.global_view[1])

    def read(self, clip: Clip, starts: Sequence[float], modalities: Sequence[Modality]) -> list[Item]:
        """Return an item per window that starts at `starts`, seconds, with the ``frames`` and ``waveform``.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        items = [Item() for _ in starts]
        if "video" in modalities:
            for item, frames in zip(items, self.frames(clip, starts), strict=True):
                item["frames"] = frames
        if "audio" in modalities:
            for item, waveform in zip(items, self.waveform(clip, starts), strict=True):
                item["waveform"] = waveform
        return items

    def frames(self, clip: Clip, starts: Sequence[float]) -> Tensor:
        """Return frames (windows, T, 3, H, W), uint8, whose short side is the global view's height.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        count, short, _ = self.config.video.global_view
        times = np.add.outer(np.asarray(starts), np.arange(count) / self.config.clip.fps)
        frames = self._decoded.read(clip, times.ravel(), lambda: self._read(clip, "video"))
        if frames is None:
            pictures = read_video(self._read(clip, "video"), times.ravel())
            frames = resize_short_side(torch.from_numpy(pictures).permute(0, 3, 1, 2), short)
        return frames.reshape(len(starts), count, *frames.shape[1:])

    def waveform(self, clip: Clip, starts: Sequence[float]) -> Tensor:
        """Return waveforms (windows, S), float32 in [-1, 1], padded with zeros where the sound ends early.

        Raises:
            MediaError: the shard cannot be read.
        """
        length, rate = self.config.clip.window_samples, self.config.clip.sample_rate
        samples = self._read(clip, "audio")[WAV_HEADER:]
        parts = [to_waveform(samples[2 * round(start * rate) :], length) for start in starts]
        return torch.from_numpy(np.stack(parts))

    def _read(self, clip: Clip, modality: Modality) -> bytes:
        return read_member(self.root, clip, modality)


def read_picture(root: Path, clip: Clip) -> NDArray[np.uint8]:
    """Return the picture in the middle of a prepared clip, (H, W, 3), in the size that the shard has.

    Raises:
        MediaError: the clip cannot be decoded.
    """
    frames = read_video(read_member(root, clip, "video"), np.array([clip.duration / 2]))
    picture: NDArray[np.uint8] = frames[0]
    return picture


def read_member(root: Path, clip: Clip, modality: Modality) -> bytes:
    """Return the file of a modality of a prepared clip.

    Raises:
        MediaError: the shard cannot be read.
    """
    offset, size = getattr(clip, f"{modality}_offset"), getattr(clip, f"{modality}_size")
    try:
        with (root / clip.shard).open("rb") as shard:
            shard.seek(offset)
            data = shard.read(size)
    except OSError as error:
        raise MediaError(f"{clip.shard}: {error.strerror}") from None
    if len(data) != size:
        raise MediaError(f"{clip.shard} is truncated")
    return data


def load_batches(
    clips: Dataset[Any], batches: Any, workers: int, views: Views | None = None
) -> Iterator[Item]:
    """Yield batches in order, decoded by `workers` processes (0: by this one).

    Args:
        clips: gives an item, or a list of items, per key.
        batches: the keys of each batch.
        workers: number of processes.
        views: makes the views of the batches. Where that is on the CPU, the workers do it, and a batch has
            the views in place of what they are made of.

    Raises:
        UserError: raised by `clips`.
    """

    def finish(items: Sequence[Item] | Sequence[list[Item]]) -> Item:
        batch = collate(items)
        return views.replace(batch) if views and views.on_cpu and workers else batch

    loader: DataLoader[Any] = DataLoader(
        clips,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=finish,
        pin_memory=torch.cuda.is_available(),
        timeout=300 if workers else 0,  # seconds after which a worker is considered hung
        worker_init_fn=_start_worker,
    )
    try:
        yield from _start_workers(loader)
    except UserError as error:
        # torch leaves the error in a cycle with its traceback, whose frames hold the loader; a loader left
        # to the garbage collection can close its pipes twice, the second time possibly another file's.
        error.__traceback__ = None
        # A worker's error arrives with its traceback as text; the last line is the message.
        last = str(error).strip().splitlines()[-1]
        raise UserError(last.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")) from None


def _start_workers(loader: DataLoader[Any]) -> Iterator[Item]:
    """Return the loader's batches; its workers hold back signals to stop.

    Whoever signals all processes means this one, which needs the workers for the step that it saves.
    """
    with stop_signals_held():
        return iter(loader)


def _start_worker(_: int) -> None:
    threading.Thread(target=_end_with_loader, daemon=True).start()
    # Tensors, which are in /dev/shm, are sent through sockets in the folder for temporary files. Where the
    # path of a socket would be too long, batches are lost and the training process waits for them.
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_FOLDER:
        tempfile.tempdir = "/dev/shm"  # noqa: S108


def _end_with_loader() -> None:
    """End this worker on SIGTERM of its parent, which ends one that hangs so; ignore all others."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


def collate(items: Sequence[Item] | Sequence[list[Item]]) -> Item:
    """Stack items (or lists of them); pad frames of unequal sizes at the right and the bottom."""
    flat = [item for entry in items for item in (entry if isinstance(entry, list) else [entry])]
    if "frames" in flat[0]:
        height, width = (max(item["frames"].shape[axis] for item in flat) for axis in (-2, -1))
        # Channels last in memory, as decoded: bytes are resized fastest so.
        for number, item in enumerate(flat):
            missing = (0, width - item["frames"].shape[-1], 0, height - item["frames"].shape[-2])
            frames = F.pad(item["frames"], missing) if any(missing) else item["frames"]
            flat[number] = {**item, "frames": frames.movedim(1, -1)}
    batch: Item = default_collate(flat)
    if "frames" in batch:
        batch["frames"] = batch["frames"].movedim(-1, 2)
    return batch
