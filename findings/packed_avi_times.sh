#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1) decodes the pictures of an XviD AVI with packed B-frames, as UCF101 and HMDB51 have them, in
# the right order, but gives them times that are neither in order nor from 0. The chunks' own times, packet.dts,
# count 0, 1, 2, …, and picture k belongs to chunk k: a packed stream needs no delay for reordering.
#
# Seen: "times 1 3 2 5 4 7 6 9 chunks 0 1 2 3 4 5 6 7"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 imageio-ffmpeg==0.6.0 numpy==2.4.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import subprocess
import sys

import av
import imageio_ffmpeg
import numpy as np

encoded, path = f"{sys.argv[1]}/encoded.avi", f"{sys.argv[1]}/packed.avi"
pictures = np.zeros((40, 120, 160, 3), np.uint8)
for number, picture in enumerate(pictures):
    for bit in range(8):
        picture[:, bit * 20 : bit * 20 + 20] = 255 * (number >> bit & 1)
raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "160x120", "-r", "25", "-i", "pipe:0")
xvid = ("-c:v", "libxvid", "-bf", "2", "-g", "12", "-q:v", "3", encoded)
subprocess.run(
    (imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *raw, *xvid), input=pictures.tobytes(), check=True
)
# One chunk after the other, as the codec's program for Windows writes them; ffmpeg leaves one out for its delay.
with av.open(encoded) as source, av.open(path, "w") as target:
    stream = target.add_stream_from_template(source.streams.video[0])
    for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
        packet.pts = packet.dts = number
        packet.stream = stream
        target.mux(packet)
with open(path, "rb") as file:
    assert b"DivX503b1393p" in file.read()  # the mark of a packed stream
with av.open(path) as file:
    times = [round(frame.time * 25) for frame in file.decode(video=0)]
with av.open(path) as file:
    chunks = [packet.dts for packet in file.demux(video=0) if packet.dts is not None]
print("times", *times[:8], "chunks", *chunks[:8])
sys.exit(times == sorted(times) or chunks[:8] != [*range(8)])
PYTHON
