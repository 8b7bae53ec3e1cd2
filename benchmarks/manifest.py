"""Time and memory of opening a prepared dataset for training: its columns, and the rows of manifest.csv.

    python benchmarks/manifest.py --data FOLDER [--rows 2000000] [--repeats 3]

A dataset of that many clips, with files of the right sizes for shards, but without media, is made in the
folder, unless it is there. Each way gives what training needs: the training clips that have both modalities
and are long enough, in order.

- `objects`: the CSV file as a tuple of `Clip`, as xkd did before there was a manifest.arrow
- `csv`: a directory without manifest.arrow, as earlier versions prepared it
- `columns`: manifest.arrow, mapped into memory

They are measured in turn, each time in a new process, without its imports. Memory is what the process has
afterwards: pages of its own, and pages of files, which all processes of a machine share. Then it forks a
loader worker that looks up clips in a random order: `worker` are the pages that it then has for itself.
"""

from __future__ import annotations

import csv
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import parser
from xkd.config import MODALITIES
from xkd.config.presets import get_preset
from xkd.data.datasets.training import SHORTEST, TrainingClips
from xkd.data.shards.clips import Clip, Clips
from xkd.data.shards.manifest import WRITER, PreparedDataset
from xkd.data.shards.table import COLUMNS, ROWS

LOOKED_UP = 20_000
"""Clips that a worker looks up: those of a good hour of training on a GPU."""


def make(root: Path, rows: int) -> None:
    """Write a dataset of clips with names, offsets and labels like those of Kinetics400."""
    (root / "shards").mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes, seconds = rng.integers(50_000, 400_000, rows), rng.uniform(0.5, 10, rows)
    names = rng.integers(0, 64, (rows, 11), np.uint8) + ord("0")
    classes = [f"doing number {number}" for number in range(400)]

    def clip(number: int) -> Clip:
        offset = 1024 + number % 256 * 2**20
        silent = number % 50 == 0
        return Clip(
            id=f"{names[number].tobytes().decode()}_{number % 600:06d}_{number % 600 + 10:06d}",
            splits=("val" if number % 20 == 0 else "train",),
            labels=(classes[number % 400],),
            shard=f"shards/{number // 256:06d}.tar",
            video_offset=offset,
            video_size=int(sizes[number]),
            audio_offset=None if silent else offset + 2**19,
            audio_size=None if silent else 320_044,
            duration=float(seconds[number]),
        )

    clips = Clips.of(map(clip, range(rows)))
    for shard, end in clips.shard_ends().items():
        with (root / shard).open("wb") as file:
            file.truncate(end)
    settings = {"sample_rate": 16000, "writer": WRITER}
    about = {"name": "made", "revision": "1", "classes": tuple(classes), "settings": settings}
    PreparedDataset(root=root, clips=clips, **about).write()  # type: ignore[arg-type]


def open_objects(root: Path) -> Sequence[Clip]:
    """Return the training clips by objects of all rows."""
    with (root / ROWS).open(newline="", encoding="utf-8") as file:
        clips = tuple(Clip.from_row(row) for row in csv.DictReader(file))
    ends: dict[str, int] = {}
    for clip in clips:
        video, audio = (clip.video_offset or 0) + (clip.video_size or 0), clip.audio_offset or 0
        ends[clip.shard] = max(ends.get(clip.shard, 0), video, audio + (clip.audio_size or 0))
    for shard, end in sorted(ends.items()):
        assert (root / shard).stat().st_size >= end
    listed = [clip for clip in clips if clip.splits[0] == "train"]
    complete = [clip for clip in listed if clip.has(*MODALITIES)]
    global kept  # the dataset keeps all
    kept = clips
    return [clip for clip in complete if clip.duration > SHORTEST]


kept: Sequence[Clip] = ()


def open_dataset(root: Path) -> Sequence[Clip]:
    """Return the training clips by `TrainingClips`."""
    return TrainingClips(PreparedDataset.open(root), get_preset("paper")).clips


def memory() -> dict[str, int]:
    """Return this process's bytes: all that are resident, those that are not a file's, and its own copies."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: 1024 * int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
    return {"all": sizes["Rss"], "own": sizes["Anonymous"], "copied": sizes["Private_Dirty"]}


def look_up(clips: Sequence[Clip]) -> int:
    """Fork a worker that looks up clips in a random order, and return the bytes that it has alone."""
    before, after = os.pipe()
    if not (process := os.fork()):
        order, begin = np.random.default_rng(0).integers(len(clips), size=LOOKED_UP), memory()["copied"]
        for index in order.tolist():
            assert clips[index].duration > SHORTEST
        os.write(after, str(memory()["copied"] - begin).encode())
        os._exit(0)
    os.waitpid(process, 0)
    return int(os.read(before, 100))


def measure(opener: Callable[[Path], Sequence[Clip]], root: Path) -> dict[str, float]:
    """Return the cost of opening in this process, and of looking up in forked ones."""
    before, begin, cpu = memory(), time.perf_counter(), time.process_time()
    clips = opener(root)
    seconds, cpu, after = time.perf_counter() - begin, time.process_time() - cpu, memory()
    return {
        "clips": len(clips),
        "seconds": seconds,
        "processor": cpu,
        "memory": after["all"] - before["all"],
        "own": after["own"] - before["own"],
        "worker": look_up(clips),
    }


def main() -> None:
    """Measure in turns, and print a table."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--rows", type=int, default=2_000_000)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    root = given.data.resolve() / f"{given.rows}"
    if not (root / COLUMNS).is_file():
        make(root, given.rows)
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder)
        for name in (ROWS, "dataset.json", "shards"):
            (earlier / name).symlink_to(root / name)
        sizes = ", ".join(f"{name} {(root / name).stat().st_size / 1e6:,.0f} MB" for name in (ROWS, COLUMNS))
        print(f"{given.rows:,} clips: {sizes}\n", flush=True)
        ways: Mapping[str, tuple[Callable[[Path], Sequence[Clip]], Path]] = {
            "objects": (open_objects, root),
            "csv": (open_dataset, earlier),
            "columns": (open_dataset, root),
        }
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
            rounds = [
                {name: processes.submit(measure, *way).result() for name, way in ways.items()}
                for _ in range(given.repeats)
            ]
    print("| | s | processor, s | memory, MB | its own, MB | worker, MB | time and memory, times less |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    middle = {
        name: {key: median(one[name][key] for one in rounds) for key in rounds[0][name]} for name in ways
    }
    base = middle["objects"]
    for name, row in middle.items():
        assert row["clips"] == base["clips"]
        sizes = " | ".join(f"{row[key] / 1e6:,.1f}" for key in ("memory", "own", "worker"))
        less = " and ".join(f"{base[key] / row[key]:.1f}" for key in ("seconds", "memory"))
        print(f"| `{name}` | {row['seconds']:.2f} | {row['processor']:.2f} | {sizes} | {less} |")


if __name__ == "__main__":
    main()
