"""Linear image operations as matrices, one per sample: out = rows @ image @ columns^T.

A crop with a resize, and a blur, are linear along each axis, so a batch of samples with different parameters
is still two batched matrix products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cubic(start: Tensor, length: Tensor, out_size: int, in_size: int) -> Tensor:
    """Return the crop [start, start + length) and resize: bicubic, align_corners, no antialiasing (BYOL-A).

    The kernel's parameter is -0.75, as in PyTorch; taps beyond the interval repeat its edge. `start` and
    `length`, (B,), are in pixels of the axis before the crop, `in_size`.

    Returns:
        (B, out_size, in_size); rows sum to 1, pixels outside the interval weigh 0.
    """
    start, length = start.long()[:, None], length.long()[:, None]
    steps = torch.arange(out_size, device=start.device)
    places = steps * (length - 1).float() / max(out_size - 1, 1)
    first = places.floor()
    offsets = torch.arange(-1, 3, device=start.device)
    distance = (places - first)[..., None].sub(offsets).abs()
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weights = torch.where(distance <= 1, near, far)
    taps = (first.long()[..., None] + offsets).clamp_min(0).minimum(length[..., None] - 1) + start[..., None]
    return _scatter(taps, weights, in_size)


def gaussian(sigma: Tensor, kernel: int, size: int) -> Tensor:
    """Return a Gaussian blur with reflected edges, (B, size, size); sigma 0 is the identity.

    Args:
        sigma: pixels, (B,).
        kernel: taps, odd.
        size: pixels of the axis, more than kernel // 2.
    """
    offsets = torch.arange(kernel, device=sigma.device) - kernel // 2
    weights = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-3)[:, None]) ** 2)
    weights = weights / weights.sum(-1, keepdim=True)
    taps = (torch.arange(size, device=sigma.device)[:, None] + offsets).abs()
    taps = (size - 1) - ((size - 1) - taps).abs()
    shape = (len(sigma), size, kernel)
    return _scatter(taps.expand(shape), weights[:, None].expand(shape), size)


def _scatter(taps: Tensor, weights: Tensor, in_size: int) -> Tensor:
    """Return the matrix (B, out, in_size) of taps and weights (B, out, K)."""
    return weights.new_zeros(*weights.shape[:2], in_size).scatter_add_(2, taps, weights)


def resize_short_side(frames: Tensor, short: int) -> Tensor:
    """Resize frames (..., 3, H, W), uint8, so that their short side has `short` pixels."""
    height, width = frames.shape[-2:]
    scale = short / min(height, width)
    size = (short, int(width * scale)) if height <= width else (int(height * scale), short)
    return F.interpolate(frames, size, mode="bilinear", antialias=True) if size != (height, width) else frames
