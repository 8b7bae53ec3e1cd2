"""Reading a window with sound from a source clip with other libraries, and from the prepared clip with ours.

A window is that of preset `paper`: 32 frames over 4 s, uint8, with the short side of the global view, and
4 s of sound, mono, 16 kHz, float32, from a random start. Each library is used as its documentation shows,
with one thread, and resizes by its own means. Processor time, the files in the system's cache; the readers
alternate by window. What they read is compared with ours: mean distance of the frames in levels (prepared
clips are encoded once more), and correlation of the waveforms.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.baseline import Baseline
from benchmarks.media_dataset import lay_out
from benchmarks.prepare import make_source
from xkd.config import PretrainConfig
from xkd.config.presets import get_preset
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.data.shards.reader import WindowReader

Window = tuple[Tensor, Tensor]
"""Frames (T, 3, H, W), uint8, and waveform (S,), float32."""
Reader = Callable[[float], Window]

SOURCES = {
    "340x256, H.264 and AAC, mp4": ("340x256", "-c:v libx264 -crf 23 -pix_fmt yuv420p -c:a aac", "mp4"),
    "640x360, H.264 and AAC, mp4": ("640x360", "-c:v libx264 -crf 23 -pix_fmt yuv420p -c:a aac", "mp4"),
    "320x240, XviD and MP3, avi": ("320x240", "-c:v libxvid -bf 2 -q:v 4 -c:a libmp3lame", "avi"),
}
PREPARATIONS = {"ours, default": PrepareConfig(), "ours, max_fps=8": PrepareConfig(max_fps=8)}
SECONDS = 10


class Peers:
    """Readers of a source clip; an attribute per library that is installed."""

    def __init__(self, config: PretrainConfig, path: Path) -> None:
        self.config, self.path = config, path
        self.count, self.short, _ = config.video.global_view
        self.fps, self.rate, self.seconds = config.clip.fps, config.clip.sample_rate, config.clip.seconds
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            self.size = self.short, int(stream.width * self.short / stream.height)

    def readers(self) -> dict[str, Reader]:
        """Return the readers by name."""
        return {
            "PyAV": self.pyav,
            "decord": self.decord,
            "torchcodec, exact (default)": lambda start: self.torchcodec(start, "exact"),
            "torchcodec, approximate": lambda start: self.torchcodec(start, "approximate"),
        }

    def pyav(self, start: float) -> Window:
        """Read with PyAV: seek, decode, convert and scale the frames on display, resample the sound."""
        plain = Baseline(self.config)
        height, width = self.size

        def convert(frame: VideoFrame) -> NDArray[Any]:
            return frame.reformat(width, height, "rgb24", threads=1).to_ndarray()

        frames = np.stack(plain.decode(self.path, start, convert))
        waveform = plain.waveform(self.path, start)
        return torch.from_numpy(frames).permute(0, 3, 1, 2), torch.from_numpy(waveform)

    def decord(self, start: float) -> Window:
        """Read with decord: frames by their indices, scaled by the reader; it decodes all of the sound."""
        decord = importlib.import_module("decord")
        height, width = self.size
        video = decord.VideoReader(
            str(self.path), ctx=decord.cpu(0), width=width, height=height, num_threads=1
        )
        times = start + np.arange(self.count) / self.fps
        indices = np.minimum((times * video.get_avg_fps()).astype(int), len(video) - 1)
        frames = torch.from_numpy(video.get_batch(indices).asnumpy()).permute(0, 3, 1, 2)
        sound = decord.AudioReader(str(self.path), ctx=decord.cpu(0), sample_rate=self.rate, mono=True)
        first = round(start * self.rate)
        last = min(first + round(self.seconds * self.rate), sound.shape[1])
        return frames, torch.from_numpy(sound[first:last].asnumpy()[0])

    def torchcodec(self, start: float, mode: str) -> Window:
        """Read with torchcodec: frames by their times, scaled by the decoder, and sound by its times."""
        decoders = importlib.import_module("torchcodec.decoders")
        resize = importlib.import_module("torchcodec.transforms").Resize(self.size)
        video = decoders.VideoDecoder(self.path, seek_mode=mode, transforms=[resize])
        times = start + np.arange(self.count) / self.fps
        frames: Tensor = video.get_frames_played_at(times.tolist()).data
        sound = decoders.AudioDecoder(self.path, sample_rate=self.rate, num_channels=1)
        return frames, sound.get_samples_played_in_range(start, start + self.seconds).data[0]


def prepared_reader(config: PretrainConfig, source: Path, out: Path, settings: PrepareConfig) -> Reader:
    """Prepare the clip and return its reader."""
    prepare(source, out, replace(settings, workers=1))
    dataset = PreparedDataset.open(out)
    (clip,), windows = dataset.clips, WindowReader(dataset, config)

    def read(start: float) -> Window:
        (item,) = windows.read(clip, [start], ("video", "audio"))
        return item["frames"], item["waveform"]

    return read


def distances(ours: Window, other: Window) -> tuple[float, float]:
    """Return the mean distance of the frames in levels, and the correlation of the waveforms."""
    width = min(ours[0].shape[-1], other[0].shape[-1])
    levels = (ours[0][..., :width].float() - other[0][..., :width]).abs().mean()
    length = min(len(ours[1]), len(other[1]))
    correlation = torch.corrcoef(torch.stack([ours[1][:length], other[1][:length]]))[0, 1]
    return float(levels), float(correlation)


def read_windows(readers: dict[str, Reader], starts: list[float]) -> dict[str, list[float]]:
    """Return the processor milliseconds of each window by reader; a reader that fails is left out."""
    times: dict[str, list[float]] = {}
    for name, reader in readers.items():
        try:
            reader(starts[0])
            times[name] = []
        except Exception as error:  # a blank with its reason, whatever it is
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
            print(f"{name} cannot be measured: {reason}")
    for start in starts:
        for name, values in times.items():
            begin = time.process_time()
            readers[name](start)
            values.append(1000 * (time.process_time() - begin))
    return times


def compare(windows: int) -> None:
    """Print a table per source."""
    config = get_preset("paper")
    torch.set_num_threads(1)
    starts = np.random.default_rng(0).uniform(0, SECONDS - config.clip.seconds - 0.2, windows).tolist()
    for title, recipe in SOURCES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = make_source(Path(folder), *recipe)
            source = Path(folder, "source")
            source.mkdir()
            lay_out(source, [path], with_video=True)
            peers = Peers(config, path).readers()
            ours = {
                name: prepared_reader(config, source, Path(folder, f"prepared{number}"), settings)
                for number, (name, settings) in enumerate(PREPARATIONS.items())
            }
            times = read_windows(peers | ours, starts)
            fastest = min((name for name in peers if name in times), key=lambda name: median(times[name]))
            print(f"\n{title}, {path.stat().st_size / 1e6:.2f} MB, medians of {windows} windows\n")
            print("| reader | processor ms | windows/s | fastest peer to it | frames, levels | sound |")
            print(f"|---|{'---:|' * 5}")
            first = next(iter(ours.values()))(starts[0])
            for name, values in times.items():
                ratio = median(peer / value for peer, value in zip(times[fastest], values, strict=True))
                levels, correlation = distances(first, (peers | ours)[name](starts[0]))
                print(
                    f"| {name} | {median(values):.1f} | {1000 / median(values):.0f} | {ratio:.2f} | "
                    f"{levels:.1f} | {correlation:.3f} |",
                    flush=True,
                )
