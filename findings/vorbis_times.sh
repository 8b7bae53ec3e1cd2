#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1) gives Vorbis frames times that jump by 10 ms (at 44.1 kHz) and back wherever the codec
# changes between short and long blocks, in Ogg, and after a copy into WebM or MP4, too. The samples are gapless and
# as many as were written. Whoever fills gaps and cuts overlaps by these times breaks the sound.
#
# Seen: "132300 samples of 132300; jumps, ms: +10.2 -10.2 +10.2 -10.2 +10.2 -10.2"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 soundfile==0.13.1 numpy==2.4.0
"$folder/venv/bin/python" - "$folder/clicks.ogg" <<'PYTHON'
import sys

import av
import numpy as np
import soundfile

rate = 44_100
sound = 0.05 * np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate)
burst = np.random.default_rng(0).standard_normal(300) * np.exp(-np.arange(300) / 60)
for second in (0.5, 1.2, 1.9, 2.5):
    sound[int(second * rate) :][:300] += 0.8 * burst
soundfile.write(sys.argv[1], sound, rate, format="OGG", subtype="VORBIS")
jumps, expected, count = [], 0.0, 0
with av.open(sys.argv[1]) as file:
    for frame in file.decode(audio=0):
        if abs(frame.time - expected) > 0.001:
            jumps.append(f"{(frame.time - expected) * 1e3:+.1f}")
        expected = frame.time + frame.samples / rate
        count += frame.samples
print(f"{count} samples of {len(sound)}; jumps, ms: {' '.join(jumps)}")
sys.exit(count != len(sound) or "+10.2" not in jumps or "-10.2" not in jumps)
PYTHON
