r"""The time from a clip to its views: a baseline on source videos, compared with prepared shards.

python benchmarks/data.py --out /tmp/xkd-data
python benchmarks/data.py --out /tmp/xkd-data --memory 10000

Creates clips like Kinetics400's (340x256, 30 fps, 10 s), prepares them, and reads the same clips both ways in
one run. The baseline's log-mel is librosa's: pip install -e ".[bench]". Stages are measured in processor
time of one process with one thread, so that other processes of a shared machine matter little; the paths
alternate by batch, and the result of a stage is the median over batches. The scaling over loader workers is
measured in wall-clock time and needs an idle machine.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.baseline import Baseline, stack, to_picture
from benchmarks.common import parser
from benchmarks.source_clips import SECONDS, make_kinetics
from xkd.config import Modality, PretrainConfig
from xkd.config.presets import get_preset
from xkd.data.datasets.training import TrainingClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare
from xkd.data.shards.reader import WindowReader, collate
from xkd.data.transforms.params import draw_params, pretrain_views
from xkd.data.transforms.views import Views
from xkd.launch.distributed import keep_freed_memory

PREPARATIONS = {
    "prepared, default": PrepareConfig(),
    "prepared, max_fps=8": PrepareConfig(max_fps=8),
    "prepared, max_fps=8 short_side=112": PrepareConfig(max_fps=8, short_side=112),
}
BASELINE = "baseline"
STAGES = ("seek + decode", "audio", "log-mel", "video views", "audio views", "collate")
READ = "of which reading: decode, audio, params, collate"
"""The part that remains on the processor when a GPU makes the views."""
BATCH = 8
PAGE = os.sysconf("SC_PAGE_SIZE")


class Stopwatch:
    """Processor milliseconds per clip, by stage; one value per batch."""

    def __init__(self) -> None:
        self.values: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the body of a ``with`` statement."""
        begin = time.process_time()
        yield
        self.values[name].append(1000 * (time.process_time() - begin) / BATCH)

    def ms(self, name: str) -> float:
        """Return a stage's median over all batches."""
        return median(self.values[name])


def baseline_batch(
    path: Baseline,
    files: list[Path],
    config: PretrainConfig,
    rng: np.random.Generator,
    watch: Stopwatch,
) -> None:
    """Measure the stages of one batch of source files."""
    height = config.video.global_view[1]
    starts = [rng.uniform(0, SECONDS - config.clip.seconds) for _ in files]
    samples: list[dict[Modality, list[torch.Tensor]]] = [{} for _ in files]
    with watch.stage("all"):
        with watch.stage("seek + decode"):
            pictures = [
                path.decode(file, start, to_picture) for file, start in zip(files, starts, strict=True)
            ]
        widths = [int(frames[0].width * height / frames[0].height) for frames in pictures]
        params = [draw_params(rng, pretrain_views(config), config, height, width) for width in widths]
        with watch.stage("audio"):
            waveforms = [path.waveform(file, start) for file, start in zip(files, starts, strict=True)]
        with watch.stage("log-mel"):
            cuts = [path.cuts(waveform, one.audio) for waveform, one in zip(waveforms, params, strict=True)]
            mels = [[path.log_mel(cut) for cut in of_clip] for of_clip in cuts]
        with watch.stage("video views"):
            for sample, frames, one in zip(samples, pictures, params, strict=True):
                sample["video"] = path.video_views(frames, one.video)
        with watch.stage("audio views"):
            for sample, spectrograms, one in zip(samples, mels, params, strict=True):
                sample["audio"] = path.audio_views(spectrograms, one.audio)
        with watch.stage("collate"):
            stack(samples)
    watch.values[READ].append(sum(watch.values[stage][-1] for stage in ("seek + decode", "audio", "collate")))


def prepared_batch(
    clips: TrainingClips,
    views: Views,
    keys: list[tuple[int, int]],
    rng: np.random.Generator,
    watch: Stopwatch,
) -> None:
    """Measure one batch as training makes it; then its single stages on the same clips."""
    with watch.stage("all"):
        with watch.stage(READ):
            batch = collate([clips[key] for key in keys])
        views(batch)
    config, windows = clips.config, WindowReader(clips.dataset, clips.config)
    rows = [clips.clips[index] for _, index in keys]
    starts = [rng.uniform(0, SECONDS - config.clip.seconds) for _ in keys]
    with watch.stage("seek + decode"):
        for row, start in zip(rows, starts, strict=True):
            windows.frames(row, [start])
    with watch.stage("audio"):
        for row, start in zip(rows, starts, strict=True):
            windows.waveform(row, [start])
    items = [clips[key] for key in keys]
    with watch.stage("collate"):
        batch = collate(items)
    with watch.stage("video views"):
        views({"frames": batch["frames"], "params": batch["params"]})
    lengths = [config.clip.window_samples] + [
        config.clip.samples(config.audio.local_view[1])
    ] * config.audio.local_views
    before = time.process_time()
    with watch.stage("log-mel"):
        for length in lengths:
            views.log_mel(batch["waveform"][:, :length])
    mel = time.process_time() - before
    before = time.process_time()
    views({"waveform": batch["waveform"], "params": batch["params"]})
    watch.values["audio views"].append(1000 * max(0.0, time.process_time() - before - mel) / BATCH)


def time_stages(
    source: Path, prepared: dict[str, Path], config: PretrainConfig, repeats: int
) -> dict[str, Stopwatch]:
    """Measure every path on every clip, `repeats` times, alternating."""
    files = sorted((source / "train").rglob("*.mp4"))
    watches = {name: Stopwatch() for name in (BASELINE, *prepared)}
    path, views = Baseline(config), Views(config, pretrain_views(config))
    path.log_mel(np.zeros(config.clip.sample_rate, np.float32))  # librosa compiles at its first call
    clips = {name: TrainingClips(PreparedDataset.open(root), config) for name, root in prepared.items()}
    for root in prepared.values():
        prepared_batch(
            TrainingClips(PreparedDataset.open(root), config),
            views,
            [(0, 0)] * 2,
            np.random.default_rng(0),
            Stopwatch(),
        )
    for repeat in range(repeats):
        for first in range(0, len(files) - BATCH + 1, BATCH):
            rng = np.random.default_rng((repeat, first))
            baseline_batch(path, files[first : first + BATCH], config, rng, watches[BASELINE])
            keys = [(repeat, index) for index in range(first, first + BATCH)]
            for name in prepared:
                prepared_batch(clips[name], views, keys, rng, watches[name])
    return watches


def print_stages(watches: dict[str, Stopwatch]) -> None:
    """Print the table of stages and totals."""
    print("\nCPU ms per clip:\n")
    print(f"| | {' | '.join(watches)} |\n|---|{'---:|' * len(watches)}")
    for stage in STAGES:
        print(f"| {stage} | {' | '.join(f'{watch.ms(stage):.1f}' for watch in watches.values())} |")

    def row(name: str, text: Callable[[Stopwatch], str]) -> None:
        print(f"| {name} | {' | '.join(text(watch) for watch in watches.values())} |")

    base = watches[BASELINE].ms("all")
    row("**all**", lambda watch: f"**{watch.ms('all'):.1f}**")
    row("all, fastest batch", lambda watch: f"{min(watch.values['all']):.1f}")
    row(READ, lambda watch: f"{watch.ms(READ):.1f}")
    row("**clips/s per core**", lambda watch: f"**{1000 / watch.ms('all'):.1f}**")
    row("speedup over the baseline", lambda watch: f"{base / watch.ms('all'):.1f}")
    row("clips/s per core, views on a GPU", lambda watch: f"{1000 / watch.ms(READ):.1f}")


def time_workers(prepared: dict[str, Path], config: PretrainConfig, counts: list[int], steps: int) -> None:
    """Print the clips per second of the training loader, without and with views computed."""
    print(
        f"\nClips/s (wall clock), training loader, batches of {2 * BATCH}, {steps} steps; then with views:\n"
    )
    print(f"| workers | {' | '.join(prepared)} |\n|---:|{'---:|' * len(prepared)}")
    views = Views(config, pretrain_views(config))
    for workers in counts:
        settings = replace(
            config,
            run=replace(config.run, workers=workers),
            optim=replace(config.optim, batch_size=2 * BATCH),
        )
        cells = []
        for root in prepared.values():
            clips = TrainingClips(PreparedDataset.open(root), settings)
            speeds = [_speed(clips, steps, make) for make in (None, views)]
            cells.append(" / ".join(f"{speed:.0f}" for speed in speeds))
        print(f"| {workers} | {' | '.join(cells)} |", flush=True)


def _speed(clips: TrainingClips, steps: int, make: Views | None) -> float:
    batches = clips.batches(0, steps + 1)
    next(batches)  # starts the workers
    begin = time.perf_counter()
    for batch in batches:
        if make is not None:
            make(batch)
    return steps * clips.config.optim.batch_size / (time.perf_counter() - begin)


def watch_memory(root: Path, config: PretrainConfig, windows: int) -> None:
    """Print the resident memory of this process after every thousand windows."""
    clips = TrainingClips(PreparedDataset.open(root), config)
    print(f"\nResident memory of a process that reads {windows} windows:\n")
    print("| windows | MiB |\n|---:|---:|", flush=True)
    for number in range(windows + 1):
        if number % 1000 == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
            print(f"| {number} | {resident / 2**20:.1f} |", flush=True)
        clips[divmod(number, len(clips))]


def create_data(out: Path, clips: int) -> tuple[Path, dict[str, Path]]:
    """Create the source clips and their preparations; existing files are kept."""
    source = out / "source"
    make_kinetics(source, clips, 2)
    prepared = {name: out / name.replace(", ", "-").replace(" ", "-") for name in PREPARATIONS}
    for name, root in prepared.items():
        prepare(source, root, PREPARATIONS[name])
    return source, prepared


def main() -> None:
    """Create the data, measure and print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--out", type=Path, required=True, help="directory of the clips; existing clips are kept"
    )
    arguments.add_argument("--preset", default="paper")
    arguments.add_argument("--clips", type=int, default=24, help=f"training clips; at least {2 * BATCH}")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    arguments.add_argument("--steps", type=int, default=12, help="batches for the scaling over workers")
    arguments.add_argument("--memory", type=int, metavar="N", help="measure only the memory, over N windows")
    args = arguments.parse_args()
    if args.clips < 2 * BATCH:
        arguments.error(f"--clips {args.clips} must be at least {2 * BATCH}")
    if args.memory is None and importlib.util.find_spec("librosa") is None:
        arguments.error('the baseline needs librosa: pip install -e ".[bench]" (or pip install librosa)')
    config: Any = get_preset(args.preset)
    source, prepared = create_data(args.out, args.clips)
    keep_freed_memory()
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's matrix products, which librosa uses
    if args.memory is not None:
        watch_memory(next(iter(prepared.values())), config, args.memory)
        return
    print(f"{os.cpu_count()} CPU cores, torch {torch.__version__}, preset {args.preset}, ", end="")
    print(f"{args.clips} clips, {args.repeats} repeats, load {os.getloadavg()[0]:.1f}")
    print_stages(time_stages(source, prepared, config, args.repeats))
    time_workers(prepared, config, args.workers, args.steps)


if __name__ == "__main__":
    main()
