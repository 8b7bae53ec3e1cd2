#!/usr/bin/env bash
# x264 165 (in PyAV 18.1.0) writes other bytes of the same pictures on processors with other instructions. With AVX-512
# it may write others in every run: its macroblock tree also counts what lies beyond the end of a row of macroblocks,
# where memory holds whatever was there before. Small pictures show it. The parameter cpu-independent=1 ends both.
#
# Seen, on a processor with AVX-512:
#   three sets of instructions: default 2 results, cpu-independent=1 1
#   twenty runs: default 5 results, cpu-independent=1 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import hashlib
import sys
from fractions import Fraction

import av
import numpy as np

rng = np.random.default_rng(0)
scene = rng.integers(0, 256, (17, 22, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
pictures = []
for number in range(40):
    shifted = np.roll(scene, (number, 2 * number), (0, 1))[:120, :160].astype(int)
    noisy = np.clip(shifted + rng.integers(-6, 7, shifted.shape), 0, 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(noisy, "rgb24").reformat(86, 64, "yuv420p", threads=1)
    frame.pts, frame.time_base = number, Fraction(1, 25)
    pictures.append(frame)


def encode(parameters: str) -> str:
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 86, 64, "yuv420p", Fraction(1, 25)
    codec.options = {"preset": "veryfast", "tune": "fastdecode", "bf": "0", "crf": "20", "x264-params": parameters}
    codec.thread_count, codec.gop_size = 1, 12
    digest = hashlib.md5()
    for frame in (*pictures, None):
        for packet in codec.encode(frame):
            digest.update(bytes(packet))
    return digest.hexdigest()


kinds = ("asm=0", "asm=MMX2,SSE2", "asm=MMX2,SSE2Fast,SSSE3,SSE4.2,AVX,FMA3,BMI2,AVX2")
default = {encode(kind) for kind in kinds}
independent = {encode(f"{kind}:cpu-independent=1") for kind in (*kinds, "asm=auto")}
print(f"three sets of instructions: default {len(default)} results, cpu-independent=1 {len(independent)}")
runs = {"": set(), "cpu-independent=1": set()}
for parameters, results in runs.items():
    for _ in range(20):
        for _ in range(rng.integers(30)):  # other contents of the free memory
            buffers = [bytearray(rng.bytes(int(rng.integers(64, 150_000)))) for _ in range(3)]
        results.add(encode(parameters))
print(f"twenty runs: default {len(runs[''])} results, cpu-independent=1 {len(runs['cpu-independent=1'])}")
sys.exit(len(default) < 2 or len(independent) > 1 or len(runs["cpu-independent=1"]) > 1)
PYTHON
