"""The collapse lab: small models that fail in the paper's ways, a healthy one, and what they are called.

python benchmarks/collapse_lab.py --data runs/data/embedded-prepared --out runs/collapse-lab

Trains the presets `lab*` over several seeds, two runs at a time, and writes table.md, figure_s3.png and
figure_s4.svg, our version of the paper's figures. Runs that are there already are not trained again.

Runs that fail in one of the paper's ways must be called, and of the kind that the paper saw or we did; runs
that end well, by the medians of their last rows, must never have been called.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from xkd.config import load_config
from xkd.model.terms import DIRECTIONS
from xkd.monitor.collapse import WINDOW, CollapseThresholds, judge
from xkd.progress import progress
from xkd.report.figures import save
from xkd.report.plots.training import COLORS, DASHED, GRAY, loss_curves
from xkd.rundir import Row, Verdict, read_rows

FAILING = (
    "lab_without_centering",
    "lab_without_norms",
    "lab_without_alignment",
    "lab_without_reconstruction",
)
HEALTHY = "lab"
"""Presets."""
KINDS = dict(zip(FAILING, ("one_hot", "constant", "constant"), strict=False))
"""How they end. What happens without reconstruction is not known before."""


@dataclass(frozen=True)
class Outcome:
    """One run and what the detector said of it."""

    preset: str
    seed: int
    rows: list[Row]
    called: Verdict | None
    """The first verdict that was not healthy."""
    ended: Verdict
    """On its last rows."""


def train(preset: str, seed: int, data: Path, out: Path) -> None:
    """Train one run on one core, unless it is there."""
    if (out / "verdict.json").exists():
        return
    command = [
        str(Path(sys.executable).with_name("xkd")),
        "pretrain",
        "--preset",
        preset,
        "--data",
        str(data),
    ]
    settings = [f"run.seed={seed}", "run.workers=0", "run.log_every=2", "run.metrics_port=null"]
    command += ["--out", str(out), *(part for setting in settings for part in ("--set", setting))]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{preset}, seed {seed}: {done.stderr.strip().splitlines()[-1]}")


def outcome(preset: str, seed: int, run: Path) -> Outcome:
    """Judge a run as it was judged while it trained, row by row."""
    config, rows = load_config(run / "config.yaml"), read_rows(run / "metrics.jsonl")
    limits = CollapseThresholds.from_config(config, rows[-1]["step"] // config.optim.epochs)
    verdicts = (judge(rows[:end], limits) for end in range(1, len(rows) + 1))
    called = next((verdict for verdict in verdicts if not verdict.healthy), None)
    return Outcome(preset, seed, rows, called, judge(rows, limits))


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a row for each run, and recall and false alarms below."""
    lines = [
        "| preset | seed | KD at the end | KLD | information | called | at step |",
        "|---|---:|---:|---:|---:|---|---:|",
    ]
    for one in outcomes:
        ends = (
            " / ".join(f"{median(row[f'{term}_{d}'] for row in one.rows[-WINDOW:]):.3g}" for d in DIRECTIONS)
            for term in ("kd", "kld", "information")
        )
        verdict = (one.called.verdict, one.called.step) if one.called else ("healthy", "")
        cells = (f"`{one.preset}`", one.seed, *ends, *verdict)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    failing = [one for one in outcomes if one.preset in KINDS]
    right = len([one for one in failing if one.called and one.called.verdict == KINDS[one.preset]])
    well = [one for one in outcomes if one.ended.healthy]
    alarms = len([one for one in well if one.called])
    lines += ["", f"{right} of {len(failing)} runs that were to collapse were called, and of the right kind."]
    lines += [f"False alarms: {alarms} on {len(well)} runs that end well."]
    return "\n".join(lines) + "\n"


def failing_curves(outcomes: Sequence[Outcome]) -> Figure:
    """Figure S3: KD, KLD and information; a column for each way to fail, a line for each run."""
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots(3, len(FAILING), sharex=True, sharey="row")
    for column, preset in enumerate(FAILING):
        axes[0, column].set_title(preset.removeprefix("lab_").replace("_", " "))
        axes[2, column].set_xlabel("step")
        for one in (one for one in outcomes if one.preset == preset):
            for row, term in enumerate(("kd", "kld", "information")):
                for d, color in zip(DIRECTIONS, COLORS.values(), strict=True):
                    values = [max(r[f"{term}_{d}"], 1e-4) for r in one.rows]
                    steps = [r["step"] for r in one.rows]
                    axes[row, column].plot(
                        steps, values, color=color, linewidth=0.9, label=d.replace("_", " ")
                    )
                if one.called:
                    axes[row, column].axvline(one.called.step, color=GRAY, linewidth=1, linestyle=DASHED)
    for row, term in enumerate(("KD", "KLD", "information")):
        axes[row, 0].set_ylabel(f"{term}, nats")
        axes[row, 0].set_yscale("log")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2)
    return figure


def main() -> None:
    """Train, judge, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared embedded dataset")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory of the runs and of what is written"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--at-once", type=int, default=os.cpu_count() or 1, help="runs at a time, one core each"
    )
    given = parser.parse_args()
    jobs = [
        (preset, seed, given.out / preset / str(seed))
        for seed, preset in product(given.seeds, (*FAILING, HEALTHY))
    ]
    with progress("collapse lab, runs", len(jobs)) as bar, ThreadPoolExecutor(given.at_once) as pool:
        running = [pool.submit(train, preset, seed, given.data, run) for preset, seed, run in jobs]
        for ended in as_completed(running):
            ended.result()
            bar.advance()
    outcomes = sorted((outcome(*job) for job in jobs), key=lambda one: (one.preset, one.seed))
    (given.out / "table.md").write_text(table(outcomes))
    healthy = next(one for one in outcomes if one.preset == HEALTHY)
    save(lambda: failing_curves(outcomes), given.out / "figure_s3.png")
    save(lambda: loss_curves(healthy.rows), given.out / "figure_s4.svg")
    print(table(outcomes), end="")
    for one in outcomes:
        called = one.called.verdict if one.called else "healthy"
        right = KINDS.get(one.preset, "healthy" if one.ended.healthy else called)
        if called != right:
            raise SystemExit(f"{one.preset}, seed {one.seed}, was called {called}, not {right}")


if __name__ == "__main__":
    main()
