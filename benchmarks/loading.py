"""The work of a training step on the CPU: reading clips, making views, and the step itself.

python benchmarks/loading.py --data PREPARED --preset toy --batch 32

Processor time of one process with one thread, the parts by turns on the same windows. A clip is read by
decoding a window of its file, and by cutting the window out of kept frames (`xkd.data.shards.decoded`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.common import preset_parser
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset
from xkd.data.datasets.training import TrainingClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.reader import WindowReader
from xkd.data.transforms.views import Views
from xkd.launch.distributed import DistributedContext, keep_freed_memory
from xkd.model.xkd import XKD
from xkd.train.schedules import schedule
from xkd.train.step import Stepper, mask_noise


def main() -> None:
    """Measure and print the table."""
    arguments = preset_parser(__doc__, preset="toy", batch=32, repeats=5)
    arguments.add_argument("--data", type=Path, required=True, help="prepared dataset")
    args = arguments.parse_args()
    torch.set_num_threads(1)
    sizes = {"optim": {"batch_size": args.batch}, "run": {"workers": 0}}
    config = resolve(get_preset(args.preset), None, (), **sizes)
    context = DistributedContext(0, 1, torch.device("cpu"))
    keep_freed_memory()
    training = TrainingClips(PreparedDataset.open(args.data), config)
    clips = training.clips[: args.batch]
    decoding, keeping = (WindowReader(training.dataset, config, repeated) for repeated in (None, clips))
    views, stepper = Views(config, training.specs), Stepper(XKD(config), config, context)
    batch, values = next(training.batches(0, 1)), schedule(config, 1000, 2000, 10)
    part = views(batch), mask_noise(config, 0, context)[0]
    rng = np.random.default_rng(0)
    starts = [rng.uniform(0, max(0, clip.duration - config.clip.seconds)) for clip in clips]

    def read(reader: WindowReader) -> None:
        for clip, start in zip(clips, starts, strict=True):
            reader.read(clip, [start], config.modalities)

    work: dict[str, Callable[[], object]] = {
        "read, decoded": lambda: read(decoding),
        "read, kept": lambda: read(keeping),
        "views": lambda: views(batch),
        "step": lambda: stepper.step([part], values),
    }
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(1 + args.repeats):
        for name, call in work.items():
            begin = time.process_time()
            call()
            spent[name].append(time.process_time() - begin)
    print(f"preset {args.preset}, batch {args.batch}, torch {torch.__version__}\n\n| part | ms |\n|---|---:|")
    for name, seconds in spent.items():
        print(f"| {name} | {1000 * median(seconds[1:]):.0f} |")


if __name__ == "__main__":
    main()
