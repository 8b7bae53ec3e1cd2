"""The tasks of `make demo`, compared with those of another revision.

python benchmarks/demo.py --base CHECKOUT --data PREPARED --out /tmp/xkd-demo

Both revisions, by turns, pretrain for a few epochs of preset `toy` on the embedded dataset, and evaluate a
random encoder by each of its protocols, in a local pipeline that runs two tasks at a time. Seconds are on the
clock and of all processors; those of a pretraining include its start.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.common import parser

HERE = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent


class Cost(NamedTuple):
    """What a command took, in seconds."""

    clock: float
    processors: float


def run(checkout: Path, *words: str) -> Cost:
    """Run a command with the code of a checkout."""
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [str(SCRIPTS / words[0]), *words[1:]],
        cwd=checkout,
        env=env | {"PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.monotonic() - begin, spent)


def main() -> None:
    """Measure both revisions by turns and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--base", type=Path, required=True, help="checkout of the other revision")
    arguments.add_argument("--data", type=Path, required=True, help="the embedded dataset, prepared")
    arguments.add_argument("--out", type=Path, required=True, help="folder of the runs")
    arguments.add_argument("--epochs", type=int, default=4)
    arguments.add_argument("--repeats", type=int, default=1)
    args = arguments.parse_args()
    data, out = args.data.resolve(), args.out.resolve()
    (out / "data").mkdir(parents=True, exist_ok=True)
    folder = out / "data" / "embedded-prepared-short_side-64-max_fps-8"
    if not folder.exists():
        folder.symlink_to(data)
    costs: dict[tuple[str, str], list[Cost]] = {}
    losses: dict[str, list[float]] = {}
    for number in range(args.repeats):
        for name, checkout in (("base", args.base.resolve()), ("now", HERE)):
            target = str(out / f"{name}-{number}")
            sizes = (f"optim.epochs={args.epochs}", "optim.warmup_epochs=1")
            settings = [word for size in sizes for word in ("--set", size)]
            train = ["xkd", "pretrain", "--preset", "toy", *settings, "--data", str(data), "--out", target]
            costs.setdefault(("pretrain", name), []).append(run(checkout, *train))
            rows = [json.loads(line) for line in Path(target, "metrics.jsonl").read_text().splitlines()]
            losses[name] = [row["loss"] for row in rows]
            step = Cost(median(row["step_seconds"] for row in rows[1:]), float("nan"))
            costs.setdefault(("a step", name), []).append(step)
            score = ["kfp", "run", "submit", "pipelines/xkd_evaluations.py", "--local", f"run={target}"]
            score += [f"data={out / 'data'}", "dataset=embedded", 'encoders=["random"]']
            costs.setdefault(("evaluations", name), []).append(run(checkout, *score))
    print("| part | base, s | now, s | ratio | base, processor s | now, processor s |")
    print("|---|---:|---:|---:|---:|---:|")
    for part in ("pretrain", "a step", "evaluations"):
        base, now = (Cost(*map(median, zip(*costs[part, name], strict=True))) for name in ("base", "now"))
        cells = (base.clock, now.clock, base.clock / now.clock, base.processors, now.processors)
        print(f"| {part} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    print(f"\nlosses {'equal' if losses['base'] == losses['now'] else 'differ'}")


if __name__ == "__main__":
    main()
