"""Color jitter of whole batches, in place (as torchvision's functional operations, written for speed).

Images are float in [0, 1], shape (B, 3, T, H, W); there is one factor per sample, (B,).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def to_gray(x: Tensor) -> Tensor:
    """Return the luma, (B, 1, T, H, W)."""
    red, green, blue = x.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)


def brightness(x: Tensor, factor: Tensor) -> None:
    """Blend with black."""
    x.mul_(_each(factor)).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> None:
    """Blend with each frame's mean gray."""
    factor, gray = _each(factor), to_gray(x.mean((-2, -1), keepdim=True))
    x.mul_(factor).add_(gray.mul_(1 - factor)).clamp_(0, 1)


def saturation(x: Tensor, factor: Tensor) -> None:
    """Blend with the gray image."""
    torch.lerp(to_gray(x), x, _each(factor), out=x).clamp_(0, 1)


def hue(x: Tensor, shift: Tensor) -> None:
    """Rotate the hue by `shift` (1 is a full turn) in HSV; saturation and value stay.

    Equal to the round trip RGB → HSV → RGB, without its branches: with max, min and
    chroma = max - min, the hue counted from red in turns is sign(g - b) (1 + (g + b - r - min) / chroma) / 6,
    and a channel at position p on the color circle becomes max + chroma - 6 chroma clamp(d, 1/6, 1/3), where
    d is the distance of hue + p - 1/2 from half a turn.
    """
    red, green, blue = x.unbind(1)
    value = torch.maximum(red, green).maximum(blue)
    least = torch.minimum(red, green).minimum(blue)
    chroma = value - least
    angle = (green + blue).sub_(red).sub_(least).div_(chroma.clamp_min(1e-12)).add_(1)
    angle.copysign_(green - blue).div_(6)
    value.add_(chroma)
    positions = torch.tensor([-1 / 2, 1 / 6, -1 / 6], device=x.device).view(1, 3, 1, 1, 1)
    torch.add(angle[:, None], positions + _each(shift) + 2, out=x)  # two more turns keep it positive
    x.frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(value[:, None], chroma[:, None], x, value=-6, out=x)


JITTER: tuple[Callable[[Tensor, Tensor], None], ...] = (brightness, contrast, saturation, hue)


def jitter(x: Tensor, factors: Tensor, order: Tensor) -> None:
    """Apply the four operations of `JITTER` to each sample, in the sample's order.

    Args:
        x: changed in place.
        factors: (B, 4), in the order of `JITTER`.
        order: (B, 4), each row a permutation of 0..3: which operation comes first, second, …
    """
    rows = order.tolist()
    for slot in range(len(JITTER)):
        for number, operation in enumerate(JITTER):
            members = [sample for sample, row in enumerate(rows) if row[slot] == number]
            if len(members) == len(rows):
                operation(x, factors[:, number])
            elif members:
                part = x[members]
                operation(part, factors[members, number])
                x[members] = part


def _each(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1, 1)
