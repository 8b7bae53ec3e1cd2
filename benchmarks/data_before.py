r"""The time from prepared clips to views, compared with an earlier revision, and whether the views are equal.

git worktree add /tmp/xkd-before REVISION
python benchmarks/data_before.py --before /tmp/xkd-before --data /tmp/xkd-data/prepared-default

Both revisions read the same windows of the same clips (`benchmarks/data.py` creates some) and make the same
random views of them, alternately by batch, in two processes with one thread each. Times are processor time
per clip; the ratio is that of the medians over the batches. Differences are in levels of 255 for the video,
and in the units of the views (standard deviations) for the audio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.common import parser
from xkd.config.presets import get_preset
from xkd.data.datasets.training import TrainingClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.reader import collate
from xkd.data.transforms.params import pretrain_views
from xkd.data.transforms.views import Views
from xkd.launch.distributed import keep_freed_memory

HERE = Path(__file__).resolve()
BATCH = 8
PARTS = ("reading", "video views", "audio views")


def serve(data: Path, preset: str) -> None:
    """Answer each line [epoch, first clip, file] with milliseconds per clip; write the views to the file."""
    keep_freed_memory()
    torch.set_num_threads(1)
    config = get_preset(preset)
    clips, views = TrainingClips(PreparedDataset.open(data), config), Views(config, pretrain_views(config))
    for line in sys.stdin:
        epoch, first, file = json.loads(line)
        times = [time.process_time()]
        batch: Any = collate([clips[epoch, (first + number) % len(clips)] for number in range(BATCH)])
        times.append(time.process_time())
        video = views({"frames": batch["frames"], "params": batch["params"]})["video"]
        times.append(time.process_time())
        audio = views({"waveform": batch["waveform"], "params": batch["params"]})["audio"]
        times.append(time.process_time())
        made = {f"video{number}": view * views.std * 255 for number, view in enumerate(video)}
        save_file(made | {f"audio{number}": view for number, view in enumerate(audio)}, file)
        print(json.dumps([1000 * (end - begin) / BATCH for begin, end in pairwise(times)]), flush=True)


class Revision:
    """A process that runs the code of one checkout."""

    def __init__(self, checkout: Path, args: argparse.Namespace) -> None:
        command = [sys.executable, str(HERE), "--serve", "--data", str(args.data), "--preset", args.preset]
        # The code of the checkout, whichever version is installed.
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def measure(self, epoch: int, first: int, file: Path) -> list[float]:
        """Return the milliseconds per clip of each of `PARTS` for a batch, and write its views to a file."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps([epoch, first, str(file)]), file=stdin, flush=True)
        answer: list[float] = json.loads(stdout.readline())
        return answer


def main() -> None:
    """Measure both revisions and print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="directory of prepared clips")
    arguments.add_argument("--before", type=Path, help="checkout of the earlier revision")
    arguments.add_argument("--preset", default="paper")
    arguments.add_argument("--batches", type=int, default=30)
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.serve:
        serve(args.data, args.preset)
        return
    if args.before is None:
        arguments.error("--before is required")
    revisions = {"before": Revision(args.before.resolve(), args), "now": Revision(HERE.parents[1], args)}
    times: dict[str, list[list[float]]] = {name: [] for name in revisions}
    worst = {"video": 0.0, "audio": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in revisions}
        for number in range(-1, args.batches):  # the first warms up
            found = {
                name: revision.measure(max(0, number), BATCH * max(0, number), files[name])
                for name, revision in revisions.items()
            }
            if number >= 0:
                for name, values in found.items():
                    times[name].append(values)
            before, now = (load_file(file) for file in files.values())
            for name, view in before.items():
                worst[name[:5]] = max(worst[name[:5]], float((view - now[name]).abs().max()))
    for revision in revisions.values():
        revision.process.terminate()
        revision.process.wait()
    print(f"torch {torch.__version__}, preset {args.preset}, {args.batches} batches of {BATCH}\n")
    print("| processor ms per clip | before | now | ratio |\n|---|---:|---:|---:|")
    rows = [
        (part, [[one[place] for one in each] for each in times.values()]) for place, part in enumerate(PARTS)
    ]
    rows.append(("**all**", [[sum(one) for one in each] for each in times.values()]))
    for part, columns in rows:
        old, new = map(median, columns)
        print(f"| {part} | {old:.1f} | {new:.1f} | {old / new:.2f} |")
    old, new = map(median, rows[-1][1])
    print(f"| clips/s per core | {1000 / old:.1f} | {1000 / new:.1f} | |")
    fastest = [min(column) for column in rows[-1][1]]
    print(f"| all, fastest batch | {fastest[0]:.1f} | {fastest[1]:.1f} | {fastest[0] / fastest[1]:.2f} |")
    print(f"\nlargest difference: video {worst['video']:.4f} levels, audio {worst['audio']:.1e}")


if __name__ == "__main__":
    main()
