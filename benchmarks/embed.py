"""Clips per second of `xkd embed`, and of a plain loop over PyAV and the encoders, a clip at a time.

    python benchmarks/embed.py --run runs/demo --clips FOLDER [--count 2000]

The folder has media files with pictures and sound; with fewer than `--count`, they are repeated by links.
The loop is what a user writes first: decode all frames with PyAV's defaults, take those at the encoder's
frame rate, resize and crop with torch, resample the sound, encode the windows of the clip. Both make the same
windows; the last lines are the smallest cosine of a row of one with that of the other, which must be near 1:
only the way in which pictures are scaled differs.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common import parser
from xkd.config import MODALITIES, Modality, PretrainConfig
from xkd.data.datasets.direct import MediaClip
from xkd.data.transforms.resample import resize_short_side
from xkd.data.transforms.views import center_crop
from xkd.embedding.embed import embed
from xkd.embedding.table import read_index
from xkd.parallel.threads import limit_threads
from xkd.weights import PretrainedEncoder, load

AGREE = 0.95


def plain_clip(path: Path, config: PretrainConfig) -> MediaClip:
    """Decode a file in the obvious way."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=config.clip.sample_rate)
    times, frames, sound = [], [], []
    _, height, width = config.video.global_view
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            times.append(float(frame.time or 0.0))
            picture = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)[None]
            frames.append(center_crop(resize_short_side(picture, height), height, width)[0])
        seconds = times[-1] + 1 / float(file.streams.video[0].average_rate or 25)
    with av.open(str(path)) as file:
        for piece in file.decode(audio=0):
            sound += [part.to_ndarray()[0] for part in resampler.resample(piece)]
    moments = np.arange(int(seconds * config.clip.fps + 1e-6)) / config.clip.fps
    shown = np.searchsorted(np.array(times), moments + 1e-6, side="right") - 1
    pictures = np.stack([frames[max(0, place)].numpy() for place in shown])
    return MediaClip(pictures=pictures, audio=np.concatenate(sound), seconds=seconds)


@torch.inference_mode()
def plain_rows(path: Path, encoders: dict[Modality, PretrainedEncoder]) -> dict[Modality, torch.Tensor]:
    """Return the pooled features (windows, D) of a file by modality."""
    config = encoders["video"].config
    clip = plain_clip(path, config)
    windows = [clip.window(config, start) for start in clip.starts(config)]
    rows: dict[Modality, torch.Tensor] = {}
    inputs: dict[Modality, list[torch.Tensor]] = {
        "video": [window["frames"] for window in windows],
        "audio": [window["waveform"] for window in windows],
    }
    for m in MODALITIES:
        view = encoders[m].make_view(inputs[m])
        rows[m] = encoders[m].pool(encoders[m](view))
    return rows


def main() -> None:
    """Measure both on the same clips, and compare their rows."""
    options = parser(__doc__)
    options.add_argument("--run", type=Path, required=True)
    options.add_argument("--clips", type=Path, required=True)
    options.add_argument("--count", type=int, default=2000)
    given = options.parse_args()
    limit_threads()
    files = sorted(path for path in given.clips.rglob("*") if path.is_file())
    encoders = {m: load(given.run, m) for m in MODALITIES}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "clips")
        folder.mkdir()
        for number in range(given.count):
            source = files[number % len(files)]
            (folder / f"{number:06d}{source.suffix}").symlink_to(source.resolve())
        begin = time.perf_counter()
        embed(given.run, [folder], Path(scratch, "table.parquet"))
        ours = time.perf_counter() - begin
        begin = time.perf_counter()
        plain = [plain_rows(path, encoders) for path in sorted(folder.iterdir())]
        theirs = time.perf_counter() - begin
        table = read_index(Path(scratch, "table.parquet"))
    print(f"xkd embed:  {given.count / ours:8.2f} clips/s")
    print(f"plain loop: {given.count / theirs:8.2f} clips/s")
    print(f"ratio:      {theirs / ours:8.2f}")
    for m in MODALITIES:
        expected = torch.cat([rows[m] for rows in plain])
        found = torch.from_numpy(table.vectors[m])
        if found.shape != expected.shape:
            raise SystemExit(f"{m}: {len(found)} rows, but {len(expected)} of the loop")
        worst = float(F.cosine_similarity(found, expected).min())
        print(f"smallest cosine of the rows, {m}: {worst:.5f}")
        if worst < AGREE:
            raise SystemExit(f"{m}: rows differ")


if __name__ == "__main__":
    main()
