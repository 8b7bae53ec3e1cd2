#!/usr/bin/env bash
# A fragmented mp4 may have negative composition offsets, so that its first picture is displayed at its first time of
# decoding (as for HLS and DASH). PyAV 18.1.0 (FFmpeg 8.1) gives such pictures times that are later by the largest
# offset, but the sound at its own: pictures are one or two frames late. The same file without fragments is right.
#
# Seen: "first picture: 0.000 s without fragments, 0.040 s with"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import struct
import sys

import av
import numpy as np


def first_time(name, flags):
    path = f"{sys.argv[1]}/{name}.mp4"
    options = {"movflags": f"negative_cts_offsets{flags}", "use_editlist": "0"}
    with av.open(path, "w", container_options=options) as file:
        stream = file.add_stream("libx264", 25, options={"g": "25", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(50):
            picture = np.full((48, 64, 3), 20 + 3 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))
    with av.open(path) as file:
        found = next(file.decode(video=0)).time
    if not flags:
        return found
    # What the file says: the time of its first fragment, and the composition offset of its first picture.
    data = open(path, "rb").read()
    place = data.index(b"trun")
    version, used = data[place + 4], int.from_bytes(data[place + 5 : place + 8], "big")
    sample = place + 12 + 4 * bool(used & 1) + 4 * bool(used & 4)
    offset = sample + sum(4 for flag in (0x100, 0x200, 0x400) if used & flag)
    assert version == 1 and used & 0x800 and struct.unpack_from(">i", data, offset)[0] == 0
    return found


whole, fragmented = first_time("whole", ""), first_time("fragmented", "+frag_keyframe+empty_moov")
print(f"first picture: {whole:.3f} s without fragments, {fragmented:.3f} s with")
sys.exit((round(whole, 3), round(fragmented, 3)) != (0.0, 0.04))
PYTHON
