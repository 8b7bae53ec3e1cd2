#!/usr/bin/env bash
# With one reference frame (refs=1, as x264's preset veryfast sets it), PyAV's Packet.is_keyframe is true for every frame
# of H.264 that is coded by itself, also where the encoder did not make it a keyframe and the mp4's index does not mark
# it: later frames may still refer to what comes before it. With more reference frames, packets and index agree.
# PyAV 18.1.0 (libavcodec 62.28).
#
# Seen: "refs=1: 20 keyframes in the index, 21 by packets, 21 frames coded by themselves"
#       "refs=3: 20 keyframes in the index, 20 by packets, 21 frames coded by themselves"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys

import av
import numpy as np
from av.video.frame import PictureType


def count(refs):
    buffer, random = io.BytesIO(), np.random.default_rng(0)
    with av.open(buffer, "w", format="mp4") as file:
        options = {"bf": "0", "preset": "veryfast", "refs": str(refs)}
        stream = file.add_stream("libx264", rate=8, width=64, height=64, options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 10_000
        for number in range(80):
            if number % 5 == 0:  # another scene, of which one falls between two keyframes
                scene = random.integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(np.roll(scene, number % 5, 1), "rgb24")
            frame.pts = number
            if number % 4 == 0:
                frame.pict_type = PictureType.I  # asks for a keyframe
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as file:
        video = file.streams.video[0]
        index = sum(entry.is_keyframe for entry in video.index_entries)
        packets = sum(packet.is_keyframe for packet in file.demux(video) if packet.size)
    buffer.seek(0)
    with av.open(buffer) as file:
        alone = sum(frame.pict_type == PictureType.I for frame in file.decode(video=0))
    print(f"refs={refs}: {index} keyframes in the index, {packets} by packets, {alone} frames coded by themselves")
    return index, packets, alone


sys.exit((count(1), count(3)) != ((20, 21, 21), (20, 20, 21)))
PYTHON
