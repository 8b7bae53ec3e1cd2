"""Masked reconstruction of one modality (Equations 1, 2; section A.3 follows MAE)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Mask(NamedTuple):
    """The tokens of a global view that are visible to the student."""

    keep: Tensor
    """(B, K) indices of the visible tokens."""
    restore: Tensor
    """(B, N) position of every token in [visible ..., hidden ...]."""
    hidden: Tensor
    """(B, N) 1 where the token is hidden, else 0."""


def random_mask(noise: Tensor, ratio: float, repeat: int = 1) -> Mask:
    """Hide all but the ``round(N (1 - ratio))`` tokens with the smallest noise, per sample.

    Args:
        noise: (B, N) uniform random numbers.
        ratio: fraction of tokens to hide.
        repeat: number of times that the mask of N tokens is repeated: VideoMAE's tubes, with N positions of a
            video and `repeat` time steps.
    """
    length = noise.shape[1]
    visible = round(length * (1 - ratio))
    first = length * torch.arange(repeat, device=noise.device)[:, None]
    shuffle = noise.argsort(dim=1)
    keep, drop = ((part[:, None] + first).flatten(1) for part in (shuffle[:, :visible], shuffle[:, visible:]))
    restore = torch.cat([keep, drop], dim=1).argsort(dim=1)
    return Mask(keep, restore, (restore >= keep.shape[1]).to(noise.dtype))


def normalize_patches(patches: Tensor) -> Tensor:
    """Return the targets: each patch vector with zero mean and unit (unbiased) variance."""
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def reconstruction_loss(predicted: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
    """Return L_ae: the mean squared error on the normalized hidden patches of the batch (Equation 2).

    Args:
        predicted: (B, N, P).
        patches: (B, N, P) from `patchify`, not normalized.
        hidden: (B, N), 1 where the token was hidden.
    """
    error = (predicted - normalize_patches(patches)).square().mean(dim=-1)
    return (error * hidden).sum() / hidden.sum()
