"""Masked reconstruction of one modality (Equations 1, 2; section A.3 follows MAE)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xkd.config import ModalityConfig, TransformerConfig
from xkd.model.vit import build_blocks, gather_tokens, init_linear, run_blocks


class Mask(NamedTuple):
    """Which tokens of a global view the student sees."""

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
        ratio: share of tokens to hide.
        repeat: the view has so many times N tokens, and the mask of the first N holds for each N of them:
            VideoMAE's tubes, when N are the places of a video and `repeat` its times.
    """
    length = noise.shape[1]
    visible = round(length * (1 - ratio))
    first = length * torch.arange(repeat, device=noise.device)[:, None]
    shuffle = noise.argsort(dim=1)
    keep, drop = ((part[:, None] + first).flatten(1) for part in (shuffle[:, :visible], shuffle[:, visible:]))
    restore = torch.cat([keep, drop], dim=1).argsort(dim=1)
    return Mask(keep, restore, (restore >= keep.shape[1]).to(noise.dtype))


class Decoder(nn.Module):
    """Predicts every patch from the visible tokens; no final norm, learned positions."""

    def __init__(
        self, config: ModalityConfig, channels: int, encoder_dim: int, size: TransformerConfig
    ) -> None:
        super().__init__()
        self.project = nn.Linear(encoder_dim, size.dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size.dim))
        self.positions = nn.Parameter(torch.empty(1, 1 + math.prod(config.grid), size.dim))
        self.blocks = build_blocks(size)
        self.predict = nn.Linear(size.dim, math.prod(config.patch) * channels)
        init_linear(self.project)
        init_linear(self.predict)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, latent: Tensor, restore: Tensor) -> Tensor:
        """(B, 1+K, D) visible tokens with cls first, (B, N) restore indices, to (B, N, P) patches."""
        tokens = self.project(latent)
        cls, visible = tokens[:, :1], tokens[:, 1:]
        batch, length = restore.shape
        hidden = self.mask_token.expand(batch, length - visible.shape[1], -1)
        tokens = gather_tokens(torch.cat([visible, hidden], dim=1), restore)
        tokens = torch.cat([cls, tokens], dim=1) + self.positions
        (tokens,) = run_blocks(self.blocks, tokens)
        return self.predict(tokens[:, 1:])  # type: ignore[no-any-return]


def normalize_patches(patches: Tensor) -> Tensor:
    """Reconstruction targets: each patch vector with zero mean and unit (unbiased) variance."""
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def reconstruction_loss(predicted: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
    """L_ae: mean squared error on the normalised hidden patches of the whole batch.

    Args:
        predicted: (B, N, P).
        patches: (B, N, P) from `patchify`, not yet normalised.
        hidden: (B, N), 1 where the token was hidden.
    """
    error = (predicted - normalize_patches(patches)).square().mean(dim=-1)
    return (error * hidden).sum() / hidden.sum()
