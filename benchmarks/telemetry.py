"""The cost of monitoring: the signals, the row, the verdict and a scrape, as shares of a training step.

python benchmarks/telemetry.py --preset embedded --batch 32

Signals and rows are computed every `run.log_every` steps, so a step's share is a row's time divided by that.
A scrape is answered by another thread; its time is counted as if it blocked training.
"""

from __future__ import annotations

import tempfile
import urllib.request
from dataclasses import replace

import torch

from benchmarks.common import Timer, preset_parser, random_part
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset
from xkd.launch.distributed import DistributedContext, keep_freed_memory
from xkd.model.xkd import XKD
from xkd.monitor.collapse import CollapseThresholds
from xkd.monitor.exporter import MetricsExporter
from xkd.monitor.run_monitor import RunMonitor
from xkd.monitor.signals import information
from xkd.rundir import RunDir
from xkd.train.schedules import schedule
from xkd.train.step import Stepper
from xkd.train.watch import StepWatch

SCRAPE_SECONDS = 15.0
"""Time between two scrapes."""


def main() -> None:
    """Measure and print the table."""
    args = preset_parser(__doc__, preset="embedded", batch=32, repeats=15).parse_args()
    config = resolve(get_preset(args.preset), optim={"batch_size": args.batch})
    context = DistributedContext(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    keep_freed_memory()
    timer = Timer(context.device)
    torch.manual_seed(0)
    stepper = Stepper(XKD(config).to(context.device), config, context)
    watch = StepWatch(stepper, 2000, 10)
    part, now = random_part(config, context), schedule(config, 1000, 2000, 10)
    numbers = iter(range(1, 10**6))
    terms = stepper.step([part], now)
    step = timer.median(lambda: stepper.step([part], now), args.repeats)
    signals = timer.median(watch.signals, args.repeats)
    values = torch.stack([*terms.values(), *watch.signals().values()])
    fetching = timer.median(values.tolist, args.repeats)
    names = [*terms, *watch.signals()]
    row = {**dict(zip(names, values.tolist(), strict=True)), **now, "time": 0.0, "skipped_unreadable": 0}
    row |= information(row)
    thresholds = replace(CollapseThresholds.from_config(config, 10), grace_steps=0)
    with tempfile.TemporaryDirectory() as folder:
        exporter = MetricsExporter("benchmark", {}, {})
        exporter.serve("127.0.0.1", 0)
        monitor = RunMonitor(RunDir(folder), thresholds, exporter)
        logging = timer.median(lambda: monitor.log({"step": next(numbers), **row}), args.repeats)
        scrape = timer.median(lambda: urllib.request.urlopen(str(exporter.address)).read(), args.repeats)  # noqa: S310
        exporter.close()
    every = config.run.log_every
    per_step = (signals + fetching + logging) / every
    scraping = scrape / SCRAPE_SECONDS
    print(f"{args.preset}, batch {args.batch}, {context.device.type}, a row every {every} steps\n")
    print("| | ms | share of a step |\n|---|---:|---:|")
    print(f"| step | {1000 * step:.1f} | |")
    print(f"| signals, every {every} steps | {1000 * signals:.2f} | {signals / every / step:.3%} |")
    print(f"| values to the host | {1000 * fetching:.2f} | {fetching / every / step:.3%} |")
    print(f"| row, verdict, disk | {1000 * logging:.2f} | {logging / every / step:.3%} |")
    print(f"| a scrape, every {SCRAPE_SECONDS:.0f} s | {1000 * scrape:.2f} | {scraping:.3%} |")
    print(f"| **all** | | **{per_step / step + scraping:.3%}** |")


if __name__ == "__main__":
    main()
