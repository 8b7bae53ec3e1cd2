#!/usr/bin/env bash
# PyAV 18.1.0 does not write a frame's color matrix into the file: an encoder has its own tag, which stays "unspecified"
# unless it is set. `reformat` keeps a source's BT.709 matrix, so pictures of most web videos are encoded with it, read
# back as BT.601, and red (254, 0, 0) becomes (230, 0, 0); green and skin change more.
#
# Seen: "frame 1, decoded (2, [230, 0, 0]); with the encoder's tag set: (1, [251, 0, 0])"; 1 is BT.709, 2 unspecified
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys
from fractions import Fraction

import av
import numpy as np

red = av.VideoFrame.from_ndarray(np.full((64, 64, 3), (254, 0, 0), np.uint8), "rgb24")
source = red.reformat(format="yuv420p", dst_colorspace="ITU709")
small = source.reformat(32, 32, format="yuv420p")


def store(tag: int | None) -> tuple[int, list[int]]:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", 25, width=32, height=32, pix_fmt="yuv420p")
        if tag is not None:
            stream.codec_context.colorspace = tag
        for number in range(3):
            small.pts, small.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(small))
        file.mux(stream.encode(None))
    with av.open(io.BytesIO(buffer.getvalue())) as file:
        frame = next(file.decode(video=0))
        return int(frame.colorspace), frame.to_ndarray(format="rgb24")[8, 8].tolist()


without, tagged = store(None), store(1)
print(f"frame {int(small.colorspace)}, decoded {without}; with the encoder's tag set: {tagged}")
sys.exit(int(small.colorspace) != 1 or without[0] != 2 or without[1][0] > 240 or tagged[1][0] < 245)
PYTHON
