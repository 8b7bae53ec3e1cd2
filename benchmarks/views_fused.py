"""xkd's color jitter as one compiled kernel: a pass over each frame, while it is in the cache (numba)."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])
Values = NDArray[np.float32]
_ZERO, _WHITE = np.float32(0), np.float32(255)
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)


def optional(name: str) -> Any:
    """Return a module, or None if it is not installed."""
    return importlib.import_module(name) if importlib.util.find_spec(name.split(".")[0]) else None


_NUMBA = optional("numba")


def _compiled(function: Function) -> Function:
    compiled: Function = _NUMBA.njit(fastmath=True)(function) if _NUMBA else function
    return compiled


@_compiled
def _blend(channel: Values, factor: np.float32, gray: np.float32) -> None:
    for i in range(len(channel)):
        channel[i] = min(max(gray + (channel[i] - gray) * factor, _ZERO), _WHITE)


@_compiled
def _saturate(r: Values, g: Values, b: Values, factor: np.float32) -> None:
    for i in range(len(r)):
        gray = _RED * r[i] + _GREEN * g[i] + _BLUE * b[i]
        r[i] = min(max(gray + (r[i] - gray) * factor, _ZERO), _WHITE)
        g[i] = min(max(gray + (g[i] - gray) * factor, _ZERO), _WHITE)
        b[i] = min(max(gray + (b[i] - gray) * factor, _ZERO), _WHITE)


@_compiled
def _mean_gray(r: Values, g: Values, b: Values) -> np.float32:
    total = _ZERO
    for i in range(len(r)):
        total += _RED * r[i] + _GREEN * g[i] + _BLUE * b[i]
    return total / np.float32(len(r))


@_compiled
def _pick(place: int, r: np.float32, g: np.float32, b: np.float32) -> np.float32:
    return r if place == 0 else (g if place == 1 else b)


@_compiled
def _rotate(r: Values, g: Values, b: Values, share: np.float32, sixths: int, side: int) -> None:
    """Rotate the hue (see `xkd.data.transforms.color.hue`)."""
    red, green, blue, near, odd = sixths % 3, (sixths + 1) % 3, (sixths + 2) % 3, -side % 3, sixths % 2 == 1
    for i in range(len(r)):
        low, high = min(r[i], g[i], b[i]), max(r[i], g[i], b[i])
        first, last = low + share * (high - low), high - share * (high - low)
        x, y, z = r[i], g[i], b[i]
        x, y, z = _pick(red, x, y, z), _pick(green, x, y, z), _pick(blue, x, y, z)
        u, v, w = _pick(near, x, y, z), _pick(near, y, z, x), _pick(near, z, x, y)
        x += min(max(u, first), last) - u
        y += min(max(v, first), last) - v
        z += min(max(w, first), last) - w
        if odd:
            x, y, z = low + high - x, low + high - y, low + high - z
        r[i], g[i], b[i] = min(max(x, low), high), min(max(y, low), high), min(max(z, low), high)


@_compiled
def _fused(x: Values, factors: Values, order: NDArray[np.int64], sixths: int, side: int) -> None:
    """Jitter the colors of frames (3, T, pixels) in place; the last factor is the share of `color.hue`."""
    for t in range(x.shape[1]):
        r, g, b = x[0, t], x[1, t], x[2, t]
        for number in order:
            if number < 2:
                gray = _mean_gray(r, g, b) if number == 1 else _ZERO
                for channel in (r, g, b):
                    _blend(channel, factors[number], gray)
            elif number == 2:
                _saturate(r, g, b, factors[2])
            else:
                _rotate(r, g, b, factors[3], sixths, side)


def fused_jitter(x: Tensor, factors: list[list[float]], order: list[list[int]], white: float) -> Any:
    """Replace `xkd.data.transforms.color.jitter` for one clip (1, 3, T, H, W)."""
    twelfth = math.floor(12 * factors[0][3])
    sixths, side = (twelfth + 1) // 2, -1 if twelfth % 2 == 0 else 1
    values = np.array([*factors[0][:3], (sixths - 6 * factors[0][3]) * side], np.float32)
    _fused(x[0].flatten(2).numpy(), values, np.array(order[0]), sixths, side)
    return x, white
