r"""The collapse lab: small models that collapse in the paper's ways, a healthy one, and the verdict on each.

python benchmarks/collapse_lab.py --data runs/data/embedded-prepared-short_side-64-max_fps-8 \
    --out runs/collapse-lab

Trains the presets `lab*` over several seeds and writes table.md, figure_s3.png and figure_s4.svg, our version
of the paper's figures. Finished runs are kept: rerun the command to resume.

Exits with an error unless every collapse is detected with the right kind, and no run that ends healthy, by
the medians of its last rows, was ever judged as collapsed.
"""

from __future__ import annotations

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

from benchmarks.common import parser
from xkd.config.pretrain import WINDOW
from xkd.model.terms import DIRECTIONS, INFORMATION, KD, KLD
from xkd.monitor.collapse import CollapseThresholds, judge
from xkd.progress import progress
from xkd.report.figures import save
from xkd.report.plots.training import COLORS, DASHED, GRAY, loss_curves
from xkd.rundir import Row, RunDir, Verdict

COLLAPSING = (
    "lab_without_centering",
    "lab_without_norms",
    "lab_without_alignment",
    "lab_without_reconstruction",
)
SIGNALS = {"KD": KD, "KLD": KLD, "information": INFORMATION}
HEALTHY = "lab"
"""The preset of the healthy run."""
KINDS = dict(zip(COLLAPSING, ("one_hot", "constant", "constant"), strict=False))
"""Expected verdicts; the outcome without reconstruction is open."""


@dataclass(frozen=True)
class Outcome:
    """One run and its verdicts."""

    preset: str
    seed: int
    rows: list[Row]
    detected: Verdict | None
    """The first verdict of a failure."""
    final: Verdict
    """The verdict on its last rows."""


def train(preset: str, seed: int, data: Path, out: Path) -> None:
    """Train one run on one core, unless it has ended."""
    if RunDir(out).ended:
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
    """Judge a run row by row, as during training."""
    config, rows = RunDir(run).config(), RunDir(run).metrics()
    thresholds = CollapseThresholds.from_config(config, rows[-1]["step"] // config.optim.epochs)
    verdicts = (judge(rows[:end], thresholds) for end in range(1, len(rows) + 1))
    detected = next((verdict for verdict in verdicts if verdict.failed), None)
    return Outcome(preset, seed, rows, detected, judge(rows, thresholds))


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table with a row for each run; below it the numbers of hits and false alarms."""
    lines = [
        "| preset | seed | KD at the end | KLD | information | verdict | at step |",
        "|---|---:|---:|---:|---:|---|---:|",
    ]
    for one in outcomes:
        ends = (
            " / ".join(f"{median(row[fields[d]] for row in one.rows[-WINDOW:]):.3g}" for d in DIRECTIONS)
            for fields in SIGNALS.values()
        )
        verdict = (one.detected.verdict, one.detected.step) if one.detected else (one.final.verdict, "")
        cells = (f"`{one.preset}`", one.seed, *ends, *verdict)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    collapsing = [one for one in outcomes if one.preset in KINDS]
    right = len([one for one in collapsing if one.detected and one.detected.verdict == KINDS[one.preset]])
    healthy = [one for one in outcomes if one.final.verdict == "healthy"]
    alarms = len([one for one in healthy if one.detected])
    lines += ["", f"{right} of {len(collapsing)} collapses were detected, with the right kind."]
    lines += [f"False alarms: {alarms} on {len(healthy)} runs that end healthy."]
    return "\n".join(lines) + "\n"


def collapse_curves(outcomes: Sequence[Outcome]) -> Figure:
    """Draw Figure S3: KD, KLD and information; a column per preset, a line per run and direction."""
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots(3, len(COLLAPSING), sharex=True, sharey="row")
    for column, preset in enumerate(COLLAPSING):
        axes[0, column].set_title(preset.removeprefix("lab_").replace("_", " "))
        axes[2, column].set_xlabel("step")
        for one in (one for one in outcomes if one.preset == preset):
            for row, fields in enumerate(SIGNALS.values()):
                for d, color in zip(DIRECTIONS, COLORS.values(), strict=True):
                    values = [max(r[fields[d]], 1e-4) for r in one.rows]
                    steps = [r["step"] for r in one.rows]
                    axes[row, column].plot(
                        steps, values, color=color, linewidth=0.9, label=d.replace("_", " ")
                    )
                if one.detected:
                    axes[row, column].axvline(one.detected.step, color=GRAY, linewidth=1, linestyle=DASHED)
    for row, term in enumerate(SIGNALS):
        axes[row, 0].set_ylabel(f"{term}, nats")
        axes[row, 0].set_yscale("log")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2)
    return figure


def main() -> None:
    """Train and judge the runs; write the table and the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="prepared embedded dataset")
    arguments.add_argument(
        "--out", type=Path, required=True, help="directory of the runs, the table and the figures"
    )
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument(
        "--at-once", type=int, default=os.cpu_count() or 1, help="runs at a time, one core each"
    )
    args = arguments.parse_args()
    jobs = [
        (preset, seed, args.out / preset / str(seed))
        for seed, preset in product(args.seeds, (*COLLAPSING, HEALTHY))
    ]
    with progress("collapse lab, runs", len(jobs)) as bar, ThreadPoolExecutor(args.at_once) as pool:
        running = [pool.submit(train, preset, seed, args.data, run) for preset, seed, run in jobs]
        for finished in as_completed(running):
            finished.result()
            bar.advance()
    outcomes = sorted((outcome(*job) for job in jobs), key=lambda one: (one.preset, one.seed))
    (args.out / "table.md").write_text(table(outcomes))
    healthy = next(one for one in outcomes if one.preset == HEALTHY)
    save(lambda: collapse_curves(outcomes), args.out / "figure_s3.png")
    save(lambda: loss_curves(healthy.rows), args.out / "figure_s4.svg")
    print(table(outcomes), end="")
    for one in outcomes:
        detected = one.detected.verdict if one.detected else one.final.verdict
        right = KINDS.get(one.preset, detected if one.final.failed else one.final.verdict)
        if detected != right:
            raise SystemExit(f"{one.preset}, seed {one.seed}, was judged {detected}, not {right}")


if __name__ == "__main__":
    main()
