"""What the students reconstruct, as pictures (Figures S8-S12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from xkd.report.curves import WIDTH

FRAMES = 8
"""Frames shown of a clip."""
CLIPS = 3
"""Clips shown."""
SPECTROGRAM_RATIO = 0.09
"""Height of a drawn spectrogram over its width."""
GAP = 2
"""White pixels between frames."""


def load_pictures(path: Path) -> dict[str, dict[str, Tensor]]:
    """The versions of a few clips by modality, as a run keeps them; empty if it kept none."""
    if not path.is_file():
        return {}
    pictures: dict[str, dict[str, Tensor]] = torch.load(path, weights_only=True)
    return pictures


def frame_strips(picture: dict[str, Tensor]) -> Figure:
    """Per clip three rows (original, masked, reconstructed) of evenly spaced frames.

    Args:
        picture: each version (n, 3, T, H, W) in [0, 1].
    """
    _, _, length, high, wide = picture["original"].shape
    shown = np.linspace(0, length - 1, min(FRAMES, length)).round().astype(int)
    rows = []
    for clip in range(min(CLIPS, len(picture["original"]))):
        for name, tensor in picture.items():
            strip = np.ones((high, len(shown) * (wide + GAP) - GAP, 3), np.float32)
            for place, t in enumerate(shown):
                left = place * (wide + GAP)
                strip[:, left : left + wide] = _image(tensor[clip, :, t].permute(1, 2, 0))
            rows.append((name, strip))
    return _rows(rows, len(picture), high / (wide * len(shown)), {"vmin": 0, "vmax": 1})


def spectrogram_rows(picture: dict[str, Tensor]) -> Figure:
    """Per clip three rows (original, masked, reconstructed), one color scale for all.

    Args:
        picture: each version (n, 1, F, T).
    """
    shown = range(min(CLIPS, len(picture["original"])))
    rows = [(name, _image(tensor[clip, 0])) for clip in shown for name, tensor in picture.items()]
    low, high = np.percentile(_image(picture["original"]), [1, 99.5])
    paint = {"cmap": "magma", "origin": "lower", "aspect": "auto", "vmin": low, "vmax": high}
    return _rows(rows, len(picture), SPECTROGRAM_RATIO, paint)


def _rows(rows: list[tuple[str, Any]], group: int, ratio: float, paint: dict[str, Any]) -> Figure:
    """Images stacked over the column's width, a gap after each `group` of them, each with its name."""
    heights: list[float] = []
    for index in range(len(rows)):
        heights += [0.35] if index and index % group == 0 else []
        heights.append(1.0)
    unit = (WIDTH - 1) * ratio
    figure = Figure(figsize=(WIDTH, unit * 1.03 * sum(heights)))
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, hspace=0.03, left=0.1, right=1, top=1, bottom=0
    )
    places = [index for index, height in enumerate(heights) if height == 1.0]
    for place, (name, image) in zip(places, rows, strict=True):
        panel = figure.add_subplot(grid[place])
        panel.imshow(image, interpolation="nearest", **paint)
        panel.set_axis_off()
        panel.text(-0.008, 0.5, name, transform=panel.transAxes, ha="right", va="center", fontsize=8)
    return figure


def _image(tensor: Tensor) -> Any:
    """As matplotlib wants it; what a diverged model left without a value is drawn as 0."""
    return torch.nan_to_num(tensor.float(), 0, 0, 0).numpy()
