#!/usr/bin/env bash
# The ffmpeg program (7.0.2) puts the Opus sound of a WebM or Matroska file 7 ms late when it is to place sound by its
# times (aresample=async=1:first_pts=0): it moves the whole file so that the encoder's delay starts at 0. In Ogg and
# MP4 it does not. PyAV 18.1.0 gives the times as stored. So ffmpeg is no reference for sound to within 7 ms.
#
# Seen: "samples late at 48 kHz: webm 336, mkv 336, ogg 0, mp4 0"
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet imageio-ffmpeg==0.6.0 numpy==2.4.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import subprocess
import sys

import imageio_ffmpeg
import numpy as np

program = (imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error")
raw = ("-f", "f32le", "-ac", "1", "-ar", "48000")
click = np.zeros(96_000, np.float32)
click[48_000:48_240] = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(240) / 48_000)
late = {}
for suffix in ("webm", "mkv", "ogg", "mp4"):
    path = f"{sys.argv[1]}/click.{suffix}"
    subprocess.run((*program, *raw, "-i", "pipe:0", "-c:a", "libopus", path), input=click.tobytes(), check=True)
    placed = ("-af", "aresample=async=1:first_pts=0", *raw, "pipe:1")
    output = subprocess.run((*program, "-i", path, *placed), stdout=subprocess.PIPE, check=True).stdout
    found = np.correlate(np.frombuffer(output, np.float32), click[47_900:48_340], "valid")
    late[suffix] = int(found.argmax()) - 47_900
print("samples late at 48 kHz:", ", ".join(f"{suffix} {count}" for suffix, count in late.items()))
sys.exit(late != {"webm": 336, "mkv": 336, "ogg": 0, "mp4": 0})
PYTHON
