"""Embed the first seconds of a video with a pretrained encoder.

Usage: python examples/features.py RUN/encoders/teacher_video.safetensors VIDEO
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import torch

import xkd


def read_frames(video: Path, count: int, fps: int) -> torch.Tensor:
    """Return the frames shown at 0, 1/fps, 2/fps, ... seconds, uint8 (count, H, W, 3)."""
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
    times = [float(frame.time or 0) for frame in frames]
    shown = np.searchsorted(times, np.arange(count) / fps, side="right") - 1
    return torch.from_numpy(np.stack([frames[i].to_ndarray(format="rgb24") for i in shown.clip(0)]))


def main(weights: str, video: str) -> None:
    """Print the shape of the features."""
    encoder = xkd.load(weights)
    frames = read_frames(Path(video), encoder.config.video.global_view[0], encoder.config.clip.fps)
    with torch.no_grad():
        tokens = encoder(encoder.transform(frames))  # (1, 1 + patches, width), cls first
        features = encoder.pool(tokens)  # (1, width)
    print(f"{encoder.modality} encoder of preset {encoder.config.preset}: features {tuple(features.shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
