"""Crop, resize, flip, color jitter, gray and blur by other libraries, each as its documentation shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.views_fused import optional
from xkd.data.transforms.params import VideoParams


class Library(NamedTuple):
    """The operations of a library on a clip, which it may keep as it likes."""

    cut: Callable[..., Any]
    adjust: tuple[Callable[..., Any], ...]
    """Brightness, contrast, saturation, hue."""
    gray: Callable[..., Any]
    blur: Callable[..., Any]
    pixels: Callable[..., Tensor]
    """To (3, T, H, W) in [0, 1]."""

    def views(self, frames: Tensor, video: VideoParams, sizes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return the views of one clip, each (3, T, H, W), not standardized."""
        made = []
        for number, size in enumerate(sizes):
            drawn: list[Any] = [values[0, number].tolist() for values in video]
            start, box, flip, factors, order, gray, sigma = drawn
            x = self.cut(frames[start : start + size[0]], box, flip, size[1:])
            for operation in order:
                x = self.adjust[operation](x, factors[operation])
            x = self.gray(x) if gray else x
            made.append(self.pixels(self.blur(x, sigma) if sigma else x).contiguous())
        return made


def _torchvision(operations: Any, dtype: torch.dtype) -> Library:
    def cut(frames: Tensor, box: list[int], flip: bool, size: tuple[int, ...]) -> Tensor:
        x: Tensor = operations.resized_crop(frames, *box, list(size), antialias=True)
        x = operations.to_dtype(x, dtype, scale=True)
        return operations.horizontal_flip(x) if flip else x

    names = ("brightness", "contrast", "saturation", "hue")
    return Library(
        cut,
        tuple(getattr(operations, f"adjust_{name}") for name in names),
        lambda x: operations.rgb_to_grayscale(x, num_output_channels=3),
        lambda x, sigma: operations.gaussian_blur(x, [9, 9], [sigma, sigma]),
        lambda x: operations.to_dtype(x, torch.float32, scale=True).transpose(0, 1),
    )


def _opencv(cv2: Any) -> Library:
    cv2.setNumThreads(1)
    levels, luma = np.arange(256, dtype=np.float32), np.array([[0.2989, 0.587, 0.114]] * 3, np.float32)

    def cut(frames: Tensor, box: list[int], flip: bool, size: tuple[int, ...]) -> list[Any]:
        top, left, height, width = box
        way = cv2.INTER_AREA if height > size[0] and width > size[1] else cv2.INTER_LINEAR
        crops = frames.permute(0, 2, 3, 1).numpy()[:, top : top + height, left : left + width]
        x = [cv2.resize(crop, size[::-1], interpolation=way) for crop in crops]
        return [cv2.flip(one, 1) for one in x] if flip else x

    def table(factor: float, offset: float) -> Any:
        return (levels * factor + offset).round().clip(0, 255).astype(np.uint8)

    def contrast(x: list[Any], factor: float) -> list[Any]:
        means = [cv2.mean(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY))[0] for one in x]
        return [cv2.LUT(one, table(factor, (1 - factor) * mean)) for one, mean in zip(x, means, strict=True)]

    def hue(x: list[Any], shift: float) -> list[Any]:
        hsv = [cv2.cvtColor(one, cv2.COLOR_RGB2HSV_FULL) for one in x]
        for one in hsv:
            one[..., 0] += np.uint8(round(256 * shift) % 256)
        return [cv2.cvtColor(one, cv2.COLOR_HSV2RGB_FULL) for one in hsv]

    def saturation(x: list[Any], factor: float) -> list[Any]:
        matrix = (1 - factor) * luma + factor * np.eye(3, dtype=np.float32)
        return [cv2.transform(one, matrix) for one in x]

    return Library(
        cut,
        (lambda x, factor: [cv2.LUT(one, table(factor, 0)) for one in x], contrast, saturation, hue),
        lambda x: [cv2.cvtColor(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for one in x],
        lambda x, sigma: [cv2.GaussianBlur(one, (9, 9), sigma) for one in x],
        lambda x: torch.from_numpy(np.stack(x)).permute(3, 0, 1, 2).float().div_(255),
    )


def _kornia(kornia: Any) -> Library:
    def cut(frames: Tensor, box: list[int], flip: bool, size: tuple[int, ...]) -> Tensor:
        top, left, height, width = box
        crop = frames[..., top : top + height, left : left + width].float() / 255
        x: Tensor = kornia.geometry.transform.resize(crop, size, antialias=True)
        return kornia.geometry.transform.hflip(x) if flip else x

    enhance = kornia.enhance
    return Library(
        cut,
        (
            enhance.adjust_brightness_accumulative,
            enhance.adjust_contrast_with_mean_subtraction,
            enhance.adjust_saturation_with_gray_subtraction,
            lambda x, shift: enhance.adjust_hue(x, math.tau * shift),
        ),
        lambda x: kornia.color.rgb_to_grayscale(x).repeat(1, 3, 1, 1),
        lambda x, sigma: kornia.filters.gaussian_blur2d(x, (9, 9), (sigma, sigma)),
        lambda x: x.transpose(0, 1),
    )


def libraries() -> dict[str, Library]:
    """Return those that are installed."""
    found = {}
    if operations := optional("torchvision.transforms.v2.functional"):
        found["torchvision, bytes"] = _torchvision(operations, torch.uint8)
        found["torchvision, floats"] = _torchvision(operations, torch.float32)
    if cv2 := optional("cv2"):
        found["OpenCV"] = _opencv(cv2)
    if kornia := optional("kornia"):
        found["Kornia"] = _kornia(kornia)
    return found
