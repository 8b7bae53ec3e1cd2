"""``xkd watch``: a run on the terminal, while it trains and afterwards."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from xkd.config import MODALITIES, PretrainConfig, load_config, other
from xkd.errors import UserError
from xkd.monitor.collapse import CollapseThresholds, judge
from xkd.rundir import Row, Verdict, read_rows

LEVELS = "▁▂▃▄▅▆▇█"
STYLES = {"healthy": "green", "stalled": "yellow"}
"""Of verdicts; what is not named is a collapse and red."""
_REFRESH_SECONDS = 2.0


def watch(run: Path, *, live: bool) -> None:
    """Show a run, as a picture that keeps up with it until it ends, or once.

    Raises:
        UserError: there is no run in the directory.
    """
    console = Console()
    if not live:
        console.print(picture(run, console.width))
        return
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            screen.update(picture(run, console.width), refresh=True)
            if (run / "verdict.json").exists():
                return
            time.sleep(_REFRESH_SECONDS)


def picture(run: Path, width: int) -> Group:
    """What the run's files say, `width` characters wide.

    Raises:
        UserError: there is no run in the directory.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} holds no run (no config.yaml); give the directory of xkd pretrain --out")
    config = load_config(run / "config.yaml")
    facts, rows = _json(run / "run.json"), read_rows(run / "metrics.jsonl")
    title = Text(run.name, style="bold")
    title.append(f"  {config.preset} on {facts.get('dataset', '?')}", style="not bold")
    if not rows:
        return Group(title, Text("no numbers yet; the first come after the first step"))
    verdict = _verdict(run, config, facts, rows)
    judged = Text.assemble((verdict.verdict, STYLES.get(verdict.verdict, "red bold")), f": {verdict.reason}")
    return Group(title, _standing(rows[-1], facts), judged, _curves(rows, config, width))


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as blocks, thinned to `width`, from 0 to what a twentieth is above; gaps are dots."""
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    finite = sorted(value for value in values if math.isfinite(value))
    top = finite[int(0.95 * (len(finite) - 1))] if finite else 0.0
    steps = len(LEVELS) - 1
    return "".join(
        LEVELS[round(steps * min(max(value / top, 0), 1)) if top > 0 else 0] if math.isfinite(value) else "·"
        for value in values
    )


def _curves(rows: Sequence[Row], config: PretrainConfig, width: int) -> Table:
    limits = CollapseThresholds.of(config, 1)
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    table.add_column(no_wrap=True)

    def add(title: str, name: str, field: str, *, collapsing: bool = False) -> None:
        values = [float(row.get(field, math.nan)) for row in rows]
        if all(math.isnan(value) for value in values):
            return
        style = "red" if collapsing and values[-1] < limits.zero else ""
        line = sparkline(values, max(10, width - 46))
        table.add_row(title, name, Text(f"{values[-1]:.4g}", style=style), Text(line, style="cyan"))

    add("objective", "", "loss")
    for m in MODALITIES:
        add(f"reconstruction, {m}", "", f"reconstruct_{m}")
    for m in MODALITIES:
        direction = f"{m}_to_{other(m)}"
        add(f"{m} → {other(m)}", "KD", f"kd_{direction}", collapsing=True)
        add("", "KLD", f"kld_{direction}", collapsing=True)
        add("", "H", f"teacher_entropy_{direction}")
        add("", "info", f"information_{direction}")
        add("", "rank", f"feature_rank_{m}")
    return table


def _standing(row: Row, facts: dict[str, Any]) -> Text:
    left = timedelta(seconds=round(row["eta_seconds"]))
    ago = timedelta(seconds=max(0, round(time.time() - row["time"])))
    parts = [
        f"step {row['step']} of {facts.get('steps', '?')}",
        f"epoch {row['epoch']:.1f}",
        f"{row['samples_per_second']:.1f} clips/s",
        f"waiting for data {row['seconds_data_wait'] / row['step_seconds']:.0%}",
        f"{left} left",
        f"logged {ago} ago",
    ]
    return Text("  ".join(parts))


def _verdict(run: Path, config: PretrainConfig, facts: dict[str, Any], rows: Sequence[Row]) -> Verdict:
    """Of a finished run what it was; of another what it looks like now."""
    if written := _json(run / "verdict.json"):
        return Verdict(**written)
    per_epoch = facts.get("steps", config.optim.epochs) // config.optim.epochs
    return judge(rows, CollapseThresholds.of(config, per_epoch), time.time())


def _json(path: Path) -> dict[str, Any]:
    """What a run wrote there, nothing if it did not yet."""
    values: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return values
