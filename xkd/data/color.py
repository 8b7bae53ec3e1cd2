"""Color jitter of whole batches, in place (as torchvision's functional operations, written for speed).

Images are float in [0, 1], shape (B, 3, T, H, W); factors are one a sample, (B,).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def to_gray(x: Tensor) -> Tensor:
    """Luma, (B, 1, T, H, W)."""
    red, green, blue = x.unbind(1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)


def brightness(x: Tensor, factor: Tensor) -> None:
    """Blend with black."""
    x.mul_(_each(factor)).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> None:
    """Blend with each frame's mean gray."""
    _blend(x, to_gray(x).flatten(-2).mean(-1)[..., None, None], factor)


def saturation(x: Tensor, factor: Tensor) -> None:
    """Blend with the gray image."""
    _blend(x, to_gray(x), factor)


def hue(x: Tensor, shift: Tensor) -> None:
    """Turn the hue by `shift` (1 is a full turn) in HSV; saturation and value stay.

    The same numbers as the round trip RGB → HSV → RGB, without its branches: with max, min and
    chroma = max - min, the hue counted from red in sixths of a turn is
    sign(g - b) (1 + (g + b - r - min) / chroma), and a channel at position p on the color circle
    becomes max - chroma * clamp(2 - 6 |d|, 0, 1), d the distance of hue + p - 1/2 to a whole turn.
    """
    red, green, blue = x.unbind(1)
    value = torch.maximum(red, green).maximum(blue)
    least = torch.minimum(red, green).minimum(blue)
    chroma = value - least
    angle = (green + blue).sub_(red).sub_(least).div_(chroma.clamp_min(1e-12)).add_(1)
    angle.copysign_(green - blue).div_(6).add_(_each(shift)[:, 0] - 0.5)
    positions = torch.tensor([0.0, 2 / 3, 1 / 3], device=x.device).view(1, 3, 1, 1, 1)
    torch.add(angle[:, None], positions, out=x)
    x.sub_(x.round()).abs_().mul_(-6).add_(2).clamp_(0, 1)
    torch.addcmul(value[:, None], chroma[:, None], x, value=-1, out=x)


JITTER: tuple[Callable[[Tensor, Tensor], None], ...] = (brightness, contrast, saturation, hue)


def jitter(x: Tensor, factors: Tensor, order: Tensor) -> None:
    """Apply the four operations of `JITTER`, to each sample in its own order.

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


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> None:
    factor = _each(factor)
    x.mul_(factor).add_(other.mul_(1 - factor)).clamp_(0, 1)


def _each(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1, 1)
