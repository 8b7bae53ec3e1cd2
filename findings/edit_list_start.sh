#!/usr/bin/env bash
# An mp4 that was cut without encoding begins, by its edit list, while a picture is displayed. PyAV 18.1.0 (FFmpeg 8.1)
# drops that picture and moves the next one, and all others, to the beginning, but not the sound: pictures are up to a
# frame too early. With advanced_editlist=0, where it cuts nothing, their times are those of the edit list.
#
# Seen: "edit at 1.01 s; picture 26, due at 0.03 s: at 0.00 s, without cutting at 0.03 s"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.0
"$folder/venv/bin/python" - "$folder/cut.mp4" <<'PYTHON'
import struct
import sys

import av
import numpy as np

path, rate = sys.argv[1], 25
with av.open(path, "w") as file:
    stream = file.add_stream("libx264", rate, options={"g": "25", "bf": "2"})
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for number in range(60):
        picture = np.full((48, 64, 3), 20 + 3 * number, np.uint8)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
    file.mux(stream.encode(None))
with av.open(path) as file:
    scale = file.streams.video[0].time_base.denominator
with open(path, "r+b") as file:
    data = bytearray(file.read())
    place = data.index(b"elst") + 16
    struct.pack_into(">i", data, place, struct.unpack_from(">i", data, place)[0] + round(1.01 * scale))
    file.seek(0)
    file.write(data)


def time_of_picture_26(**options):
    with av.open(path, container_options=options) as file:
        return {
            round((float(frame.to_ndarray(format="rgb24").mean()) - 20) / 3): frame.time
            for frame in file.decode(video=0)
        }[26]


cut, uncut = time_of_picture_26(), time_of_picture_26(advanced_editlist="0")
print(f"edit at 1.01 s; picture 26, due at 0.03 s: at {cut:.2f} s, without cutting at {uncut:.2f} s")
sys.exit((round(cut, 3), round(uncut, 3)) != (0.0, 0.03))
PYTHON
