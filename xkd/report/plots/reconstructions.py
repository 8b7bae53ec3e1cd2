"""Images of sample clips, their reconstructions and the teachers' attention (Figures S7 to S12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn.functional import interpolate

from xkd.report.load import Samples
from xkd.report.plots.training import WIDTH

FRAMES = 3
"""Frames shown per clip where clips share a row; a clip with a row to itself shows all frames."""
SPECTROGRAM_ASPECT = 0.09
"""Height over width of a spectrogram that is as wide as the column; smaller ones keep their shape."""
LABELS, SCALES = 0.98, 0.62
"""Inches left of the images for row labels, and right of them for color scales."""
ROW_GAP, CLIP_GAP, GROUP_GAP = 0.03, 0.09, 0.2
"""Inches between rows, between clips in a row, and between groups of rows."""
FRAME_GAP = 0.04
"""White space between the frames of a clip, in widths of a frame."""
HIDDEN = [to_rgb(color) for color in ("#e4e4e4", "#b4b4b4")]
"""Colors of hidden patches, which are hatched: no part of a clip looks like it."""
SPECTROGRAM, HEAT, DIFFERENCE = (mpl.colormaps[name] for name in ("magma", "inferno", "RdBu_r"))
OPACITY = 0.8
"""Opacity of the maximum of a heat map over the clip."""


class _Row(NamedTuple):
    """Images in a row, with its label and the space above it."""

    label: str
    images: Sequence[Any]
    """(height, width, 3) each."""
    above: float = ROW_GAP
    """Inches."""


def reconstructions(samples: Samples) -> Figure:
    """Show each clip, what the student saw at its training mask ratio, and the reconstruction."""
    versions = {
        "original": _colors(samples, samples["original"]),
        "masked": _masked(samples, 0),
        "reconstructed": _colors(samples, samples["reconstructed"][0]),
    }
    rows = [
        _Row(name, [_flat(colors[clip])], GROUP_GAP if clip and name == "original" else ROW_GAP)
        for clip in range(len(samples["original"]))
        for name, colors in versions.items()
    ]
    return _stack(rows, SPECTROGRAM_ASPECT if samples["original"].dim() == 4 else None)[0]


def by_mask_ratio(samples: Samples) -> Figure:
    """Show clips in a row, and below them the student's input and reconstruction at each mask ratio."""
    rows = [_Row("original", _few_frames(_colors(samples, samples["original"])))]
    for index, ratio in enumerate(samples["ratios"].tolist()[1:], start=1):
        reconstructed = _colors(samples, samples["reconstructed"][index])
        rows.append(_Row(f"{ratio:.0%} masked", _few_frames(_masked(samples, index)), CLIP_GAP))
        rows.append(_Row("reconstructed", _few_frames(reconstructed)))
    return _stack(rows)[0]


def attention_maps(samples: Samples) -> Figure:
    """Show clips in a row, and below them the teacher's attention, the refined weights and their difference.

    Attention and weights are divided by their mean over a clip's patches, so that uniform weights are 1.
    Clips are gray with stretched contrast; the opacity of a color increases with its distance from 0.
    """
    original = _colors(samples, samples["original"])
    gray = original.mean(axis=-1, keepdims=True)
    darkest, brightest = np.percentile(gray, [0.5, 99.5]).tolist()
    gray = Normalize(darkest, brightest, clip=True)(gray)
    before, after = (_over_mean(samples[name]) for name in ("attention", "relevance"))
    change = after - before
    highest = max(1.0, float(np.quantile(np.stack([before, after]), 0.995)))
    farthest = max(1e-3, float(np.quantile(np.abs(change), 0.995)))
    weights = ScalarMappable(Normalize(0, highest), HEAT)
    changes = ScalarMappable(Normalize(-farthest, farthest), DIFFERENCE)

    def overlay(maps: Any, scale: ScalarMappable) -> list[Any]:
        values = _upsample(maps, original.shape[1:-1])[..., None]
        colors = scale.to_rgba(values.ravel())[:, :3].reshape(original.shape)
        opacity = OPACITY * np.sqrt(np.clip(np.abs(values) / scale.get_clim()[1], 0, 1))
        return _few_frames(opacity * colors + (1 - opacity) * gray)

    figure, panels = _stack(
        [
            _Row("original", _few_frames(original)),
            _Row("before", overlay(before, weights)),
            _Row("after", overlay(after, weights)),
            _Row("after \N{MINUS SIGN} before", overlay(change, changes), CLIP_GAP),
        ],
        scales=True,
    )
    for scale, extend, first, last in ((weights, "max", 1, 2), (changes, "both", 3, 3)):
        top, bottom = panels[first][-1].get_position(), panels[last][-1].get_position()
        axes = figure.add_axes((top.x1 + 0.01, bottom.y0, 0.008, top.y1 - bottom.y0))
        bar = figure.colorbar(scale, axes, ticks=MaxNLocator(3), extend=extend)
        bar.outline.set_visible(False)
        axes.tick_params(labelsize=7, length=2, pad=2)
    figure.axes[-2].set_title("\N{MULTIPLICATION SIGN} mean", fontsize=7, fontweight="normal", pad=4)
    return figure


def _over_mean(maps: Tensor) -> Any:
    """Return maps (n, *grid), each divided by its mean; 0 where a diverged model left NaN."""
    flat = maps.flatten(1)
    return (flat / flat.mean(dim=1, keepdim=True)).nan_to_num(0, 0, 0).view(maps.shape).numpy()


def _masked(samples: Samples, index: int) -> Any:
    """Return the colors of the visible patches at a mask ratio, (n, *size, 3)."""
    colors = _colors(samples, samples["original"])
    hidden = _upsample(samples["hidden"][index].numpy(), colors.shape[1:-1])
    height, width = hidden.shape[-2:]
    period = max(4, height // 10)
    diagonal = np.add.outer(np.arange(height), np.arange(width)) % period
    hatching = np.where((diagonal < period // 4)[..., None], HIDDEN[1], HIDDEN[0])
    return np.where(hidden[..., None] > 0, hatching, colors)


def _upsample(maps: Any, size: Sequence[int]) -> Any:
    """Repeat the values of patches (n, *grid) to the size of frames or spectrograms, (n, *size)."""
    patches = torch.from_numpy(maps).float()[:, None]
    return interpolate(patches, size=list(size), mode="nearest-exact")[:, 0].numpy()


def _colors(samples: Samples, version: Tensor) -> Any:
    """Return frames (n, F, H, W, 3) or spectrograms (n, bins, T, 3) as colors, spectrograms on one scale."""
    if version.dim() == 5:
        return version.movedim(1, -1).numpy() / 255
    low, high = np.percentile(_levels(samples["original"]), [1, 99.5]).tolist()
    return SPECTROGRAM(Normalize(low, high, clip=True)(_levels(version)))[..., :3]


def _levels(spectrograms: Tensor) -> Any:
    """Return (n, bins, T); 0 where a diverged model left NaN."""
    return spectrograms[:, 0].float().nan_to_num(0, 0, 0).numpy()


def _few_frames(colors: Any) -> list[Any]:
    """Return each clip as an image, of a video only `FRAMES` frames."""
    return [_flat(clip, FRAMES) for clip in colors]


def _flat(colors: Any, frames: int | None = None) -> Any:
    """Return a clip as an image: evenly spaced frames in a row, or low frequencies at the bottom."""
    if colors.ndim == 3:
        return colors[::-1]
    length, height, width, _ = colors.shape
    count = min(frames or length, length)
    shown = [int((index + 0.5) * length / count) for index in range(count)]
    gap = np.ones((height, max(1, round(FRAME_GAP * width)), 3))
    parts = [part for frame in shown for part in (colors[frame], gap)]
    return np.concatenate(parts[:-1], axis=1)


def _stack(
    rows: Sequence[_Row], aspect: float | None = None, scales: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure of the report's width with rows of images, all of one size, and its panels.

    Args:
        aspect: height over width of the images; None: that of their pixels.
        scales: whether to leave space for color scales.
    """
    columns = len(rows[0].images)
    pixel_rows, pixel_columns, _ = rows[0].images[0].shape
    width = (WIDTH - LABELS - scales * SCALES - (columns - 1) * CLIP_GAP) / columns
    height = width * (aspect or pixel_rows / pixel_columns)
    top = total = sum(row.above + height for row in rows)
    figure, panels = Figure(figsize=(WIDTH, total)), list[list[Axes]]()
    for row in rows:
        top -= row.above + height
        lefts = [LABELS + column * (width + CLIP_GAP) for column in range(columns)]
        boxes = [(left / WIDTH, top / total, width / WIDTH, height / total) for left in lefts]
        panels.append([figure.add_axes(box) for box in boxes])
        for panel, image in zip(panels[-1], row.images, strict=True):
            panel.imshow(image, aspect="auto")
            panel.set_axis_off()
        figure.text((LABELS - 0.08) / WIDTH, (top + height / 2) / total, row.label, ha="right", va="center")
    return figure, panels
