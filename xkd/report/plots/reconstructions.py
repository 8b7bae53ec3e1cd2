"""What a run's networks make of a few clips, as pictures (Figures S7 to S12)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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

from xkd.report.plots.training import WIDTH

Picture = dict[str, Tensor]
"""One modality's part of what `xkd.train.visualize.save_pictures` writes."""

FRAMES = 3
"""Frames shown of a clip where clips stand side by side; alone it shows all that were kept."""
WIDE_SPECTROGRAM = 0.09
"""Height over width of a spectrogram as wide as the column; a smaller one keeps its shape."""
LABELS, SCALES = 0.98, 0.62
"""Inches left of the pictures for the rows' names, and right of them for color scales."""
SEAM, GAP, BREAK = 0.03, 0.09, 0.2
"""Inches between rows, between clips side by side, and between rows that do not belong together."""
BORDER = 0.04
"""White between the frames of a clip, in widths of a frame."""
HIDDEN = to_rgb("#d3d7dd")
LOUDNESS, HEAT, CHANGE = (mpl.colormaps[name] for name in ("magma", "inferno", "RdBu_r"))
OPACITY = 0.8
"""Of the hottest place of a heat map over what it is about."""


class _Row(NamedTuple):
    """Pictures side by side, and what stands before and above them."""

    name: str
    images: Sequence[Any]
    """(height, width, 3) each."""
    above: float = SEAM
    """Inches."""


def load_pictures(path: Path) -> dict[str, Picture]:
    """What a run keeps of a few clips, by modality; empty if it kept nothing, or in another form."""
    if not path.is_file():
        return {}
    pictures: dict[str, Picture] = torch.load(path, weights_only=True)
    return {modality: picture for modality, picture in pictures.items() if "hidden" in picture}


def reconstructions(picture: Picture) -> Figure:
    """Each clip, what its student saw of it at the run's own mask ratio, and what it made of that."""
    versions = {
        "original": _colors(picture, picture["original"]),
        "masked": _masked(picture, 0),
        "reconstructed": _colors(picture, picture["reconstructed"][0]),
    }
    rows = [
        _Row(name, [_flat(colors[clip])], BREAK if clip and name == "original" else SEAM)
        for clip in range(len(picture["original"]))
        for name, colors in versions.items()
    ]
    return _stack(rows, WIDE_SPECTROGRAM if picture["original"].dim() == 4 else None)[0]


def by_mask_ratio(picture: Picture) -> Figure:
    """Clips side by side; below them, for each mask ratio, what the student saw and what it made of that."""
    rows = [_Row("original", _some_frames(_colors(picture, picture["original"])))]
    for place, ratio in enumerate(picture["ratios"].tolist()[1:], start=1):
        made = _colors(picture, picture["reconstructed"][place])
        rows.append(_Row(f"{ratio:.0%} masked", _some_frames(_masked(picture, place)), GAP))
        rows.append(_Row("reconstructed", _some_frames(made)))
    return _stack(rows)[0]


def attention_maps(picture: Picture) -> Figure:
    """Clips side by side; below them the teacher's attention, the weights of refinement, their difference.

    Attention and weights are divided by their mean over a clip's patches: 1 is what every patch has when all
    weigh the same. Grays are stretched; a color is the more opaque the further from 0.
    """
    original = _colors(picture, picture["original"])
    gray = original.mean(axis=-1, keepdims=True)
    darkest, brightest = np.percentile(gray, [0.5, 99.5]).tolist()
    gray = Normalize(darkest, brightest, clip=True)(gray)
    before, after = (_over_mean(picture[name]) for name in ("attention", "relevance"))
    change = after - before
    high = max(1.0, float(np.quantile(np.stack([before, after]), 0.995)))
    far = max(1e-3, float(np.quantile(np.abs(change), 0.995)))
    weights = ScalarMappable(Normalize(0, high), HEAT)
    changes = ScalarMappable(Normalize(-far, far), CHANGE)

    def heated(maps: Any, scale: ScalarMappable) -> list[Any]:
        values = _spread(maps, original.shape[1:-1])[..., None]
        colors = scale.to_rgba(values.ravel())[:, :3].reshape(original.shape)
        opacity = OPACITY * np.sqrt(np.clip(np.abs(values) / scale.get_clim()[1], 0, 1))
        return _some_frames(opacity * colors + (1 - opacity) * gray)

    figure, panels = _stack(
        [
            _Row("original", _some_frames(original)),
            _Row("before", heated(before, weights)),
            _Row("after", heated(after, weights)),
            _Row("after \N{MINUS SIGN} before", heated(change, changes), GAP),
        ],
        scales=True,
    )
    for scale, beyond, first, last in ((weights, "max", 1, 2), (changes, "both", 3, 3)):
        top, bottom = panels[first][-1].get_position(), panels[last][-1].get_position()
        place = figure.add_axes((top.x1 + 0.01, bottom.y0, 0.008, top.y1 - bottom.y0))
        bar = figure.colorbar(scale, place, ticks=MaxNLocator(3), extend=beyond)
        bar.outline.set_visible(False)
        place.tick_params(labelsize=7, length=2, pad=2)
    figure.axes[-2].set_title("\N{MULTIPLICATION SIGN} mean", fontsize=7, fontweight="normal", pad=4)
    return figure


def _over_mean(maps: Tensor) -> Any:
    """Maps (n, *grid), each over its mean; what a diverged model left without a value is 0."""
    flat = maps.flatten(1)
    return (flat / flat.mean(dim=1, keepdim=True)).nan_to_num(0, 0, 0).view(maps.shape).numpy()


def _masked(picture: Picture, place: int) -> Any:
    """The colors of what is visible at one of the mask ratios, (n, *size, 3)."""
    colors = _colors(picture, picture["original"])
    hidden = _spread(picture["hidden"][place].numpy(), colors.shape[1:-1])
    return np.where(hidden[..., None] > 0, HIDDEN, colors)


def _spread(maps: Any, size: Sequence[int]) -> Any:
    """Values of patches (n, *grid) at the frames' or the spectrogram's points, (n, *size)."""
    patches = torch.from_numpy(maps).float()[:, None]
    return interpolate(patches, size=list(size), mode="nearest-exact")[:, 0].numpy()


def _colors(picture: Picture, version: Tensor) -> Any:
    """Frames (n, F, H, W, 3) or spectrograms (n, bins, T, 3) as colors; all spectrograms on one scale."""
    if version.dim() == 5:
        return version.movedim(1, -1).numpy() / 255
    low, high = np.percentile(_levels(picture["original"]), [1, 99.5]).tolist()
    return LOUDNESS(Normalize(low, high, clip=True)(_levels(version)))[..., :3]


def _levels(spectrograms: Tensor) -> Any:
    """(n, bins, T); what a diverged model left without a value is 0."""
    return spectrograms[:, 0].float().nan_to_num(0, 0, 0).numpy()


def _some_frames(colors: Any) -> list[Any]:
    """Each clip as an image, a video by a few frames."""
    return [_flat(clip, FRAMES) for clip in colors]


def _flat(colors: Any, frames: int | None = None) -> Any:
    """One clip as an image: evenly spaced frames side by side, or the low frequencies at the bottom."""
    if colors.ndim == 3:
        return colors[::-1]
    length, high, wide, _ = colors.shape
    count = min(frames or length, length)
    shown = [int((place + 0.5) * length / count) for place in range(count)]
    border = np.ones((high, max(1, round(BORDER * wide)), 3))
    parts = [part for t in shown for part in (colors[t], border)]
    return np.concatenate(parts[:-1], axis=1)


def _stack(
    rows: Sequence[_Row], shape: float | None = None, scales: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """Rows of pictures below each other over the column's width, and their panels.

    Args:
        rows: each with as many pictures, all of one size.
        shape: the pictures' height over their width, if it is not to be that of their pixels.
        scales: leave room for color scales.
    """
    columns = len(rows[0].images)
    high, wide, _ = rows[0].images[0].shape
    width = (WIDTH - LABELS - scales * SCALES - (columns - 1) * GAP) / columns
    height = width * (shape or high / wide)
    top = whole = sum(row.above + height for row in rows)
    figure, panels = Figure(figsize=(WIDTH, whole)), list[list[Axes]]()
    for row in rows:
        top -= row.above + height
        lefts = [LABELS + column * (width + GAP) for column in range(columns)]
        places = [(left / WIDTH, top / whole, width / WIDTH, height / whole) for left in lefts]
        panels.append([figure.add_axes(place) for place in places])
        for panel, image in zip(panels[-1], row.images, strict=True):
            panel.imshow(image, aspect="auto")
            panel.set_axis_off()
        figure.text((LABELS - 0.08) / WIDTH, (top + height / 2) / whole, row.name, ha="right", va="center")
    return figure, panels
