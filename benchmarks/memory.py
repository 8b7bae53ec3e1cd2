r"""The memory of training steps on the CPU, and what `xkd.train.memory` estimates.

python benchmarks/memory.py toy:32 toy:128 vit_tiny:8 paper:2

An argument is a preset and the clips of a step; each is measured in its own process. Views are random: clips
that are read are not part of it. `measured` is what the process has after two steps more than after its
imports; of it, a step of two clips with preset `toy` took `libraries`. `tensors` is the most that live at a
time during a third step; more than both together is memory that was freed and is kept for reuse.
"""

from __future__ import annotations

import gc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.autograd.profiler import profile

from benchmarks.common import parser, random_part
from xkd.config import PretrainConfig
from xkd.config.overrides import resolve
from xkd.config.presets import get_preset
from xkd.launch.distributed import DistributedContext, keep_freed_memory
from xkd.model.xkd import XKD
from xkd.train.memory import estimate
from xkd.train.schedules import schedule
from xkd.train.step import Stepper

CONTEXT = DistributedContext(0, 1, torch.device("cpu"))


def resident(name: str) -> int:
    """Return a line of this process's status in bytes: VmRSS, or its maximum VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def train(config: PretrainConfig, steps: int) -> Stepper:
    """Make steps."""
    stepper = Stepper(XKD(config), config, CONTEXT)
    for step in range(steps):
        stepper.step([random_part(config, CONTEXT)], schedule(config, step, 100, 10))
    return stepper


def live_bytes(stepper: Stepper) -> int:
    """Return the largest sum of tensors at any time of a step."""
    config = stepper.model.config
    with profile(profile_memory=True) as profiled:  # type: ignore[no-untyped-call]
        stepper.step([random_part(config, CONTEXT)], schedule(config, 2, 100, 10))
    assert profiled.kineto_results
    events = [event for event in profiled.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    trained = sum(p.numel() for p in stepper.model.parameters() if p.requires_grad)
    return most + 4 * sum(p.numel() for p in stepper.model.parameters()) + 8 * trained


def measure(word: str) -> str:
    """Return a row of the table."""
    preset, _, clips = word.partition(":")
    config = resolve(get_preset(preset), None, [f"optim.batch_size={clips}", "run.workers=0"])
    keep_freed_memory()
    imported = resident("VmRSS")
    train(resolve(get_preset("toy"), None, ["optim.batch_size=2"]), 1)
    gc.collect()
    libraries = resident("VmRSS") - imported
    stepper = train(config, 2)
    measured = resident("VmHWM") - imported
    need = estimate(config, 1, half=False)
    estimated = need.cpu - need.batches
    sizes = [live_bytes(stepper), libraries, measured, estimated]
    cells = " | ".join(f"{size / 1e6:,.0f}" for size in sizes)
    return f"| `{preset}` | {clips} | {cells} | {estimated / measured:.2f} |"


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("settings", nargs="+", metavar="PRESET:CLIPS")
    words = arguments.parse_args().settings
    print("| preset | clips | tensors, MB | libraries, MB | measured, MB | estimated, MB | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for row in processes.map(measure, words):
            print(row, flush=True)


if __name__ == "__main__":
    main()
