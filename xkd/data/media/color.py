"""Bring pictures of any color format into the one that shards hold: 4:2:0, BT.601, limited range.

FFmpeg scales and subsamples. It does not convert between the matrices: through RGB, as swscale does, colors
are up to 5 of 255 levels off; one step with exact coefficients is within 3.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

BT601, LIMITED = 6, 1
"""ITU-T H.273's codes of the matrix and of the range (16 to 235) of all pictures that are written."""
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""Weights of red and blue in luma, by the code of the matrix: BT.709, FCC, SMPTE 240M, BT.2020."""
_LUMA_BT601 = (0.299, 0.114)
_FULL_RANGE = 2
_ONE = 1 << 16
_SCALING = Interpolation.BILINEAR | Interpolation.BITEXACT | Interpolation.ACCURATE_RND
"""Bit-exact, so that the bytes of a shard do not depend on the processor."""


class ColorConverter:
    """Scale pictures and convert their colors."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(self, frame: VideoFrame, width: int, height: int) -> VideoFrame:
        """Return the picture in this size, even in both directions, and in the written color format."""
        luma, full = _read_form(frame)
        small = self._reformatter.reformat(
            frame,
            width,
            height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601 if luma == _LUMA_BT601 else None,
            dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            interpolation=_SCALING,
            threads=1,
        )
        if full or luma != _LUMA_BT601:
            small.make_writable()  # it may be the decoder's reference
            _apply(_coefficients(luma, full), small)
        small.colorspace, small.color_range = BT601, LIMITED
        return small


def _read_form(frame: VideoFrame) -> tuple[tuple[float, float], bool]:
    """Return the weights of luma, and whether the range is full; for RGB, what FFmpeg is to convert it to."""
    if frame.format.is_rgb or frame.format.has_palette:
        return _LUMA_BT601, False
    full = frame.color_range == _FULL_RANGE
    if not frame.color_range:
        full = frame.format.name.startswith(("yuvj", "gray"))
    return _LUMA.get(frame.colorspace, _LUMA_BT601), full


@functools.cache
def _coefficients(luma: tuple[float, float], full: bool) -> NDArray[np.int64]:
    """Return the matrix (3, 3) from (Y, Cb, Cr) without offsets to those of the written form, times 65536."""

    def to_rgb(red: float, blue: float) -> NDArray[np.float64]:
        green = 1 - red - blue
        from_cb, from_cr = 2 * (1 - blue), 2 * (1 - red)
        return np.array(
            [[1, 0, from_cr], [1, -blue * from_cb / green, -red * from_cr / green], [1, from_cb, 0]]
        )

    found, written = np.array([255, 255, 255] if full else [219, 224, 224]), np.array([219, 224, 224])
    matrix = np.linalg.inv(to_rgb(*_LUMA_BT601)) @ to_rgb(*luma)
    scaled: NDArray[np.int64] = np.rint(matrix * written[:, None] / found * _ONE).astype(np.int64)
    return scaled


def _apply(matrix: NDArray[np.int64], frame: VideoFrame) -> None:
    """Convert a 4:2:0 picture in place; its range is full where the matrix scales luma."""
    planes: list[Any] = list(frame.planes)
    luma, *chroma = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width] for plane in planes
    )
    cb, cr = (plane.astype(np.int32) - 128 for plane in chroma)
    black = 0 if matrix[0, 0] != _ONE else 16
    (scale, *to_luma), *to_chroma = matrix.tolist()
    for plane, (_, from_cb, from_cr) in zip(chroma, to_chroma, strict=True):
        plane[:] = np.clip(128 + (from_cb * cb + from_cr * cr + _ONE // 2 >> 16), 0, 255)
    shift = to_luma[0] * cb + to_luma[1] * cr
    scaled = (luma.astype(np.int32) - black) * scale + shift.repeat(2, 0).repeat(2, 1)
    luma[:] = np.clip(16 + (scaled + _ONE // 2 >> 16), 0, 255)
