"""Masked reconstruction of one modality (Equations 1, 2; section A.3 follows MAE)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Mask(NamedTuple):
    """The tokens of a global view that are visible to the student, and those that are hidden."""

    keep: Tensor
    """(B, K) indices of the visible tokens."""
    drop: Tensor
    """(B, N-K) indices of the hidden tokens."""
    restore: Tensor
    """(B, N) position of every token in [visible ..., hidden ...]."""

    @property
    def hidden(self) -> Tensor:
        """(B, N) whether each token is hidden."""
        return self.restore >= self.keep.shape[1]


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
    return Mask(keep, drop, restore)


def normalize_patches(patches: Tensor) -> Tensor:
    """Return the targets: each patch vector with zero mean and unit (unbiased) variance."""
    centered = patches - patches.mean(dim=-1, keepdim=True)
    # The norm of vectors is several times as fast on a CPU as torch.var.
    variance = torch.linalg.vector_norm(centered, dim=-1, keepdim=True).square() / (patches.shape[-1] - 1)
    normalized: Tensor = centered / (variance + 1e-6).sqrt()
    return normalized


def reconstruction_loss(predicted: Tensor, patches: Tensor) -> Tensor:
    """Return L_ae: the mean squared error on the normalized hidden patches of the batch (Equation 2).

    Args:
        predicted: (B, N-K, P).
        patches: the hidden patches in the same order, not normalized.
    """
    return F.mse_loss(predicted, normalize_patches(patches))
