"""A training step on the CPU in bf16, compared with fp32: what `run.precision=auto` is chosen by.

python benchmarks/precision.py --preset toy --batch 32
python benchmarks/precision.py --preset paper --batch 2 --repeats 3

One model takes steps in both precisions by turns, on views of noise. The medians are of the seconds on the
clock and of all processors.
"""

from __future__ import annotations

import time
from statistics import median

import torch

from benchmarks.common import preset_parser, random_part
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset
from xkd.launch.distributed import DistributedContext, keep_freed_memory
from xkd.model.xkd import XKD
from xkd.train.schedules import schedule
from xkd.train.step import Stepper

TYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    """Measure and print the table."""
    arguments = preset_parser(__doc__, preset="toy", batch=32, repeats=10)
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = arguments.parse_args()
    config = resolve(get_preset(args.preset), None, args.set, optim={"batch_size": args.batch})
    context = DistributedContext(0, 1, torch.device("cpu"))
    keep_freed_memory()
    torch.manual_seed(0)
    stepper = Stepper(XKD(config), config, context)
    part, values = random_part(config, context), schedule(config, 1000, 2000, 10)
    seconds: dict[torch.dtype, list[tuple[float, float]]] = {dtype: [] for dtype in TYPES}
    for _ in range(1 + args.repeats):
        for stepper.dtype in TYPES:
            clock, processors = time.perf_counter(), time.process_time()
            stepper.step([part], values)
            spent = time.perf_counter() - clock, time.process_time() - processors
            seconds[stepper.dtype].append(spent)
    print(f"preset {' '.join([args.preset, *args.set])}, batch {args.batch}, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print("\n| precision | ms | processor ms |\n|---|---:|---:|")
    for dtype, measured in seconds.items():
        cells = (f"{1000 * median(column):.0f}" for column in zip(*measured[1:], strict=True))
        print(f"| {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
