"""Augmentation of fine-tuning: RandAugment and SpecAugment (supplement A.6, Tables S6, S7)."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from xkd.config import FinetuneVideoConfig
from xkd.data.transforms.params import AudioParams

_SEEDING = threading.Lock()
"""timm draws from process-wide generators, so only one thread may seed them at a time."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators, which timm draws from, and restore them afterwards."""
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
    """Apply timm's RandAugment to frames (T, 3, H, W), uint8: the same operations, as strong, on each."""
    if not config.magnitude or not config.operations:
        return frames
    transform = _rand_augment(config.magnitude, config.operations, config.magnitude_std)
    changed = []
    for frame in frames.permute(0, 2, 3, 1).numpy():
        with seeded(seed):
            changed.append(np.asarray(transform(Image.fromarray(frame))))
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


@functools.cache
def _rand_augment(magnitude: int, operations: int, std: float) -> Callable[[Any], Any]:
    from timm.data.auto_augment import rand_augment_transform  # imported late: it takes seconds

    # The operations that grow with the magnitude, as VideoMAE and the authors' code use them.
    name = f"rand-m{magnitude}-n{operations}-mstd{std:g}-inc1"
    # The mean color of the standardization fills the border that shifts and rotations uncover.
    transform: Callable[[Any], Any] = rand_augment_transform(name, {"img_mean": (124, 116, 104)})
    return transform


def mask_spectrogram(spectrogram: Tensor, params: AudioParams) -> Tensor:
    """Warp spectrograms (B, 1, F, T) in time, and fill bands of F and T with their mean (SpecAugment)."""
    warps = params.warp.tolist()
    warped = torch.stack([_warp(sample, *warp) for sample, warp in zip(spectrogram, warps, strict=True)])
    device = spectrogram.device
    hidden_mels = _bands(params.mel_masks.to(device), warped.shape[2])[:, None, :, None]
    hidden_frames = _bands(params.time_masks.to(device), warped.shape[3])[:, None, None, :]
    mean = warped.mean(dim=(1, 2, 3), keepdim=True)
    return torch.where(hidden_mels | hidden_frames, mean, warped)


def _warp(sample: Tensor, center: int, shift: int) -> Tensor:
    """Stretch (1, F, T) along time so that frame `center` moves to `center` + `shift`."""
    if not shift:
        return sample
    mels, frames = sample.shape[1:]
    parts = (sample[..., :center], center + shift), (sample[..., center:], frames - center - shift)
    return torch.cat(
        [F.interpolate(part[None], (mels, width), mode="bicubic")[0] for part, width in parts], dim=-1
    )


def _bands(bands: Tensor, size: int) -> Tensor:
    """Return which bins lie in some band (B, size), from the bands' starts and widths (B, masks, 2)."""
    place = torch.arange(size, device=bands.device)
    start, width = bands[..., :1], bands[..., 1:]
    return ((place >= start) & (place < start + width)).any(dim=1)
