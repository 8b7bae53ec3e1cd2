#!/usr/bin/env bash
# FFmpeg 8.1's scaler, as PyAV 18.1.0 calls it, does not average chroma where it turns a 4:2:0 picture into a smaller
# RGB one in a single step, not even with AREA: it takes single chroma samples. With FULL_CHR_H_INT it averages.
#
# Seen, levels from the mean of the full picture's blocks: "AREA 3.6, with FULL_CHR_H_INT 1.2"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import av
import numpy as np
from av.video.reformatter import Interpolation

mask = np.random.default_rng(0).random((240, 320, 1)) < 0.5
dithered = np.where(mask, (220, 40, 40), (40, 60, 200)).astype(np.uint8)
picture = av.VideoFrame.from_ndarray(dithered, "rgb24").reformat(format="yuv420p")
blocks = picture.to_ndarray(format="rgb24").astype(float).reshape(24, 10, 32, 10, 3).mean((1, 3))
off = []
for interpolation in (Interpolation.AREA, Interpolation.AREA | Interpolation.FULL_CHR_H_INT):
    small = picture.reformat(32, 24, "rgb24", interpolation=interpolation).to_ndarray()
    off.append(np.abs(small - blocks).mean())
print(f"AREA {off[0]:.1f}, with FULL_CHR_H_INT {off[1]:.1f}")
sys.exit(bool(off[0] < 2 * off[1]))
PYTHON
