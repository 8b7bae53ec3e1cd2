"""The strong augmentation of fine-tuning that linear evaluation lacks (supplement A.6, Tables S6, S7)."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xkd.config import FinetuneAudioConfig, FinetuneVideoConfig

_FILL = (124, 116, 104)
"""The standardization's mean color, which comes in where a frame is moved or turned."""
_SEEDING = threading.Lock()
"""One thread at a time: timm draws from the generators that a process has but once."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have Python's and NumPy's global generators start from a seed, and put them back afterwards.

    Those are what timm draws from.
    """
    with _SEEDING:
        before = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def rand_augment(frames: Tensor, config: FinetuneVideoConfig, seed: int) -> Tensor:
    """RandAugment of a clip: timm's, with the same operations at the same strength on every frame.

    Args:
        frames: uint8 (T, 3, H, W).
        config: strength and number of the operations.
        seed: of the operations.

    Returns:
        As `frames`.
    """
    if not config.magnitude or not config.operations:
        return frames
    transform = _rand_augment(config.magnitude, config.operations, config.magnitude_std)
    pictures = [Image.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]
    changed = []
    for picture in pictures:
        with seeded(seed):
            changed.append(np.asarray(transform(picture)))
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


@functools.cache
def _rand_augment(magnitude: int, operations: int, std: float) -> Callable[[Any], Any]:
    from timm.data.auto_augment import rand_augment_transform  # imported late: it takes seconds

    # The operations that grow with the magnitude, as VideoMAE and the authors' code use them.
    name = f"rand-m{magnitude}-n{operations}-mstd{std:g}-inc1"
    transform: Callable[[Any], Any] = rand_augment_transform(name, {"img_mean": _FILL})
    return transform


def draw_masks(
    rng: np.random.Generator, config: FinetuneAudioConfig, mels: int, frames: int
) -> dict[str, NDArray[np.int64]]:
    """What `mask_spectrogram` needs for one spectrogram.

    Returns:
        ``audio_warp`` (2,): a frame, and how far it moves; ``audio_mask_frequency`` and ``audio_mask_time``
        (masks, 2): first bin and number of bins.
    """
    # A short spectrogram's halves must keep some width.
    reach = min(config.warp, (frames - 1) // 4)
    center = int(rng.integers(reach + 1, frames - reach))
    drawn = {"audio_warp": np.array([center, rng.integers(-reach, reach + 1)])}
    for axis, size, most in (("frequency", mels, config.frequency_mask), ("time", frames, config.time_mask)):
        widths = rng.integers(0, min(most, size) + 1, config.masks)
        starts = [int(rng.integers(size - width + 1)) for width in widths]
        drawn[f"audio_mask_{axis}"] = np.stack([np.array(starts, np.int64), widths], axis=1)
    return drawn


def mask_spectrogram(spectrogram: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
    """Time warp, and bands of frequency and of time filled with the spectrogram's mean (SpecAugment).

    Args:
        spectrogram: (B, 1, F, T).
        draws: as of `draw_masks`, with a leading batch axis.

    Returns:
        (B, 1, F, T).
    """
    warps = draws["audio_warp"].tolist()
    warped = torch.stack([_warp(sample, *warp) for sample, warp in zip(spectrogram, warps, strict=True)])
    device = spectrogram.device
    hidden_mels = _bands(draws["audio_mask_frequency"].to(device), warped.shape[2])[:, None, :, None]
    hidden_frames = _bands(draws["audio_mask_time"].to(device), warped.shape[3])[:, None, None, :]
    mean = warped.mean(dim=(1, 2, 3), keepdim=True)
    return torch.where(hidden_mels | hidden_frames, mean, warped)


def _warp(sample: Tensor, center: int, shift: int) -> Tensor:
    """Stretch (1, F, T) along time so that frame `center` comes to lie at `center` + `shift`."""
    if not shift:
        return sample
    mels, frames = sample.shape[1:]
    parts = (sample[..., :center], center + shift), (sample[..., center:], frames - center - shift)
    return torch.cat(
        [F.interpolate(part[None], (mels, width), mode="bicubic")[0] for part, width in parts], dim=-1
    )


def _bands(bands: Tensor, size: int) -> Tensor:
    """(B, masks, 2) of starts and widths to (B, size), which bins lie in some band."""
    place = torch.arange(size, device=bands.device)
    start, width = bands[..., :1], bands[..., 1:]
    return ((place >= start) & (place < start + width)).any(dim=1)
