#!/usr/bin/env bash
# PyAV 18.1.0: an AudioResampler takes its input format from the first frame and refuses every other one. Streams
# may change it (a broadcast from stereo to 5.1, joined recordings): then the old resampler has to be flushed, and a new
# one continues.
#
# Seen: "ValueError: Frame does not match AudioResampler setup." for another layout and for another rate
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import av
import numpy as np


def silence(layout: str, rate: int) -> av.AudioFrame:
    channels = 2 if layout == "stereo" else 1
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024 * channels), np.int16), format="s16", layout=layout)
    frame.sample_rate = rate
    return frame


for changed in (("stereo", 44_100), ("mono", 48_000)):
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
    resampler.resample(silence("mono", 44_100))
    try:
        resampler.resample(silence(*changed))
    except ValueError as error:
        print(f"{changed}: ValueError: {error}")
    else:
        raise SystemExit(f"{changed}: accepted")
PYTHON
