"""``xkd watch``: a run in the terminal, during training and afterwards."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from xkd.config import MODALITIES, other
from xkd.model.terms import FEATURE_RANK, INFORMATION, KD, KLD, RECONSTRUCT, TEACHER_ENTROPY, direction
from xkd.monitor.collapse import CollapseThresholds, detect_stall, judge
from xkd.monitor.metrics import KNN, VALIDATION_LOSS
from xkd.rundir import Row, RunDir

LEVELS = "▁▂▃▄▅▆▇█"
STYLES = {"healthy": "green", "undecided": "yellow", "stalled": "yellow"}
"""Style by verdict; the others are red."""
_REFRESH_SECONDS = 2.0


def watch(run: RunDir, *, live: bool) -> None:
    """Show a run: live until it ends, or once.

    Raises:
        UserError: there is no run in the directory.
    """
    console = Console()
    if not live:
        console.print(render(run, console.width))
        return
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            ended = run.ended  # before rendering, so that the last picture has the final verdict
            screen.update(render(run, console.width), refresh=True)
            if ended:
                return
            time.sleep(_REFRESH_SECONDS)


def render(run: RunDir, width: int) -> Group:
    """Return the state of a run, `width` characters wide.

    Raises:
        UserError: there is no run in the directory.
    """
    config, info, rows = run.config(), run.info(), run.metrics()
    title = Text(run.name, style="bold")
    title.append(f"  {config.preset} on {info.get('dataset', '?')}", style="not bold")
    if not rows:
        return Group(title, Text("no metrics yet; the first row is logged after the first step"))
    thresholds = CollapseThresholds.of_run(config, info)
    if run.ended:
        verdict = run.verdict()
    elif not (verdict := judge(rows, thresholds)).failed:
        verdict = detect_stall(rows, time.time()) or verdict
    style = STYLES.get(verdict.verdict, "red bold")
    line = Text.assemble((verdict.verdict, style), f": {verdict.reason}")
    row = rows[-1]
    age = timedelta(seconds=max(0, round(time.time() - row["time"])))
    parts = (
        f"step {row['step']} of {info.get('steps', '?')}",
        f"epoch {row['epoch']:.1f}",
        f"{row['samples_per_second']:.1f} clips/s",
        f"waiting for data {row['seconds_data_wait'] / row['step_seconds']:.0%}",
        f"{timedelta(seconds=round(row['eta_seconds']))} left",
        f"logged {age} ago",
    )
    return Group(title, Text("  ".join(parts)), line, _curves(rows, thresholds, width))


def sparkline(values: Sequence[float], width: int, *, from_zero: bool = True) -> str:
    """Return a curve in block characters, up to the 95th percentile; dots are values that are not finite.

    More than `width` values are thinned to `width`.

    Args:
        from_zero: whether the lowest block is 0, to show what vanishes; False: the least value, to show the
            shape of what stays far above.
    """
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    finite = sorted(value for value in values if math.isfinite(value))
    top = finite[int(0.95 * (len(finite) - 1))] if finite else 0.0
    low = 0.0 if from_zero or not finite else finite[0]
    steps, span = len(LEVELS) - 1, top - low
    return "".join(
        LEVELS[round(steps * min(max((value - low) / span, 0), 1)) if span > 0 else 0]
        if math.isfinite(value)
        else "·"
        for value in values
    )


def _curves(rows: Sequence[Row], thresholds: CollapseThresholds, width: int) -> Table:
    curves = [("objective", "", "loss")]
    curves += [(f"reconstruction, {m}", "", RECONSTRUCT[m]) for m in MODALITIES]
    curves += [("validation", "loss", VALIDATION_LOSS), *(("", f"kNN, {m}", KNN[m]) for m in MODALITIES)]
    for m in MODALITIES:
        d = direction(m)
        curves += [(f"{m} → {other(m)}", "KD", KD[d]), ("", "KLD", KLD[d]), ("", "H", TEACHER_ENTROPY[d])]
        curves += [("", "info", INFORMATION[d]), ("", "rank", FEATURE_RANK[m])]
    table = Table.grid(padding=(0, 1))
    for options in ({}, {}, {"justify": "right"}, {"no_wrap": True}):
        table.add_column(**options)
    losses = ("loss", VALIDATION_LOSS, *RECONSTRUCT.values())
    for title, name, field in curves:
        values = [float(row[field]) for row in rows if field in row]  # probes are not in every row
        if all(math.isnan(value) for value in values):
            continue
        collapsed = name in ("KD", "KLD") and values[-1] < thresholds.collapse_threshold
        newest = Text(f"{values[-1]:.4g}", style="red" if collapsed else "")
        curve = sparkline(values, max(10, width - 46), from_zero=field not in losses)
        table.add_row(title, name, newest, Text(curve, style="cyan"))
    return table
