"""Color jitter of whole batches (as torchvision's functional operations, written for speed).

Images are float, (B, 3, T, H, W), from 0 (black) to a white level. A level and a factor are one number, or
one per sample, (B, 1, 1, 1, 1). The operations may change the images in place; those that can change the
white level return it as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import floor
from typing import Any

import torch
from torch import Tensor

Factor = float | Tensor

_HUE = 3

_LUMA = (0.2989, 0.587, 0.114)
_BLACKEST = 1e-9
"""Added to factors of brightness: at 0, the white level would be infinite."""


def to_gray(x: Tensor) -> Tensor:
    """Return the luma, (B, 1, T, H, W)."""
    red, green, blue = x.unbind(1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).unsqueeze(1)


def brightness(x: Tensor, factor: Factor, white: Any) -> tuple[Tensor, Any]:
    """Blend with black: the white level moves instead of the values."""
    white = white / (factor + _BLACKEST)
    return _limit(x, factor, white), white


def contrast(x: Tensor, factor: Factor, white: Any) -> tuple[Tensor, Any]:
    """Blend with each frame's mean gray."""
    gray = to_gray(x.mean((-2, -1), keepdim=True))
    return _limit(torch.lerp(gray, x, factor, out=x), factor, white), white


def saturation(x: Tensor, factor: Factor, white: Any) -> tuple[Tensor, Any]:
    """Blend with the gray image."""
    return _limit(torch.lerp(to_gray(x), x, factor, out=x), factor, white), white


def hue(x: Tensor, shift: Factor, twelfth: int) -> Tensor:
    """Rotate the hue by `shift` (1 is a full turn) in HSV; saturation and value stay.

    Equal to the round trip RGB → HSV → RGB, without angles. On the color circle, the channel between the
    largest and the smallest moves by 6 chroma `shift` (chroma = largest - smallest), and when it reaches
    either, the next one moves. Up to a twelfth of a turn, that is for each channel and its neighbor on the
    side of the rotation: channel - neighbor + clamp(neighbor, smallest + move, largest - move), clamped to
    [smallest, largest]. A sixth of a turn replaces each channel by the complement of a neighbor.

    Args:
        shift: within [twelfth / 12, (twelfth + 1) / 12].
    """
    sixths, side = (twelfth + 1) // 2, -1 if twelfth % 2 == 0 else 1
    share = (sixths - 6 * shift) * side
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    largest = torch.maximum(red, green).maximum(blue)
    smallest = torch.minimum(red, green).minimum(blue)
    low, high = torch.lerp(smallest, largest, share), torch.lerp(largest, smallest, share)
    channel, neighbor = _turn(x, -sixths), _turn(x, side - sixths)
    rotated = torch.clamp(neighbor, low, high).sub_(neighbor).add_(channel)
    if sixths % 2:
        torch.sub(largest + smallest, rotated, out=rotated)
    return torch.clamp(rotated, smallest, largest, out=rotated)


_NEUTRAL = 1.0, 1.0, 1.0, 0.0
"""Factors that change nothing."""


def jitter(
    x: Tensor, factors: Sequence[Sequence[float]], order: Sequence[Sequence[int]], white: float
) -> tuple[Tensor, Any]:
    """Apply brightness, contrast, saturation and hue to each sample, in the sample's order.

    Args:
        x: may be changed.
        factors: for each sample the factors of the four operations, as named here.
        order: for each sample a permutation of 0..3: which operation comes first, second, …
        white: white level of `x`.

    Returns:
        the images and their white level.
    """
    if len(x) == 1:  # numbers are faster than tensors of one number
        level: Any = white
        for number in order[0]:
            if factors[0][number] != _NEUTRAL[number]:
                x, level = _apply(number, x, factors[0][number], level, _twelfth(factors[0]))
        return x, level
    level = x.new_full((len(x), 1, 1, 1, 1), white)
    for slot in range(len(_NEUTRAL)):
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for sample, numbers in enumerate(order):
            number = numbers[slot]
            if factors[sample][number] != _NEUTRAL[number]:
                groups[number, _twelfth(factors[sample]) if number == _HUE else 0].append(sample)
        for (number, twelfth), members in groups.items():
            each = x.new_tensor([factors[sample][number] for sample in members]).view(-1, 1, 1, 1, 1)
            x[members], level[members] = _apply(number, x[members], each, level[members], twelfth)
    return x, level


def _apply(number: int, x: Tensor, factor: Factor, white: Any, twelfth: int) -> tuple[Tensor, Any]:
    if number == _HUE:
        return hue(x, factor, twelfth), white
    return (brightness, contrast, saturation)[number](x, factor, white)


def _twelfth(factors: Sequence[float]) -> int:
    """Return the twelfth of a turn in which the shift of the hue is."""
    return floor(12 * factors[_HUE])


def _limit(x: Tensor, factor: Factor, white: Any) -> Tensor:
    """Cut off what is below black or above white; a factor up to 1 leaves nothing there."""
    return x.clamp_(0 * white, white) if isinstance(factor, Tensor) or factor > 1 else x


def _turn(x: Tensor, channels: int) -> Tensor:
    return x.roll(channels, dims=1) if channels % 3 else x
