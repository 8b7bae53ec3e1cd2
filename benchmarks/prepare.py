"""Clips per second and processor time per clip of `prepare`, and of the ffmpeg program doing the same work.

    python benchmarks/prepare.py [--clips 30] [--memory-clips 500]

Both decode, scale to a short side of 128 pixels, encode H.264 with the same settings and write 16 kHz mono
wav files, with one thread. ffmpeg makes the sources: 10 s of 340x256 H.264 and AAC in mp4, and 10 s of
320x240 XviD in avi. The last lines are the memory of one worker of `prepare` after 20 clips and at the end.
"""

from __future__ import annotations

import gc
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import parser
from xkd.data.media.prepared import encode_wav
from xkd.data.media.transcode import transcode
from xkd.parallel.processes import run_each

# A zoom into a fractal with film grain; encoded, it has the size of a filmed clip.
_PICTURES = "mandelbrot=size={}:rate=25:end_scale=0.05,noise=alls=5:allf=t"
_SOUND = "anoisesrc=amplitude=0.1:color=pink:sample_rate=44100:duration=10"
_SOURCES = {
    "340x256 H.264 and AAC (mp4)": ("340x256", "-c:v libx264 -crf 23 -pix_fmt yuv420p -c:a aac", "mp4"),
    "320x240 XviD (avi)": ("320x240", "-an -c:v libxvid -bf 2 -q:v 4", "avi"),
}
_ENCODER = "-c:v libx264 -crf 20 -preset veryfast -tune fastdecode -bf 0 -g 12 -threads 1"


def make_source(folder: Path, size: str, codec: str, suffix: str) -> Path:
    """Return a clip of 10 s with sound that ffmpeg writes."""
    path = folder / f"source.{suffix}"
    inputs = f"-f lavfi -i {_PICTURES.format(size)} -f lavfi -i {_SOUND} -t 10"
    subprocess.run(f"ffmpeg -v error -y {inputs} {codec} {path}".split(), check=True)
    return path


def _with_ffmpeg(source: Path, folder: Path) -> None:
    scale = "-map 0:v -vf scale=-2:128:flags=bilinear+bitexact+accurate_rnd -pix_fmt yuv420p"
    sound = f"-map 0:a? -ac 1 -ar 16000 {folder / 'out.wav'}" if source.suffix == ".mp4" else ""
    video = f"{scale} {_ENCODER} -x264-params cpu-independent=1 {folder / 'out.mp4'}"
    command = f"ffmpeg -nostdin -v error -y -threads 1 -i {source} -filter_threads 1 {video} {sound}"
    subprocess.run(command.split(), check=True)


def _with_xkd(source: Path, folder: Path) -> None:
    found = transcode(source, with_video=True, short_side=128, max_fps=None, sample_rate=16000)
    (folder / "out.mp4").write_bytes(found.video or b"")
    if found.audio is not None:
        (folder / "out.wav").write_bytes(encode_wav(found.audio, 16000))


def _measure(program: Callable[[Path, Path], None], source: Path, folder: Path) -> tuple[float, float]:
    """Return the seconds and the processor seconds, children included, of one clip."""
    before, began = os.times(), time.perf_counter()
    program(source, folder)
    after = os.times()
    return time.perf_counter() - began, sum(after[:4]) - sum(before[:4])


def _memory(source: Path) -> float:
    """Transcode a clip in a worker; return the worker's resident memory, MB."""
    transcode(source, with_video=True, short_side=128, max_fps=None, sample_rate=16000)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--clips", type=int, default=30, help="clips per source and program")
    arguments.add_argument("--memory-clips", type=int, default=500, help="clips of the memory measurement")
    options = arguments.parse_args()
    programs = (_with_xkd, _with_ffmpeg)
    gc.freeze()  # as a worker does: `transcode` collects what a clip leaves
    print("| source | MB | xkd clips/s | ffmpeg clips/s | xkd s | ffmpeg s | ratio of processor time |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for title, recipe in _SOURCES.items():
            source = make_source(Path(name), *recipe)
            # By turns, so that both meet the same state of the machine.
            rounds = [[_measure(each, source, Path(name)) for each in programs] for _ in range(options.clips)]
            ours, theirs = (
                [sum(values) / options.clips for values in zip(*one, strict=True)]
                for one in zip(*rounds, strict=True)
            )
            print(
                f"| {title} | {source.stat().st_size / 1e6:.2f} | {1 / ours[0]:.2f} | {1 / theirs[0]:.2f} | "
                f"{ours[1]:.3f} | {theirs[1]:.3f} | {ours[1] / theirs[1]:.2f} |",
                flush=True,
            )
        sizes = [*run_each(_memory, [source] * options.memory_clips, 1, 120.0)]
        for count in (20, options.memory_clips):
            print(f"memory of a worker after {count} clips: {sizes[min(count, len(sizes)) - 1]:.0f} MB")


if __name__ == "__main__":
    main()
