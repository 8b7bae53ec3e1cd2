"""Pictures of the dashboards: ``python -m k8s.monitoring.pictures`` writes docs/figures/dashboard-*.png.

Matplotlib draws them, not Grafana: panels, queries, units, legends and places are those of the dashboards'
JSON, the data comes from a real Prometheus (`k8s.monitoring.recording`); fonts and colors are not Grafana's.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from k8s.monitoring.recording import Prometheus, replayed

HERE = Path(__file__).parent
FIGURES = HERE.parents[1] / "docs" / "figures"
CHOSEN = {"xkd-fleet": {"run": ".+"}, "xkd-run": {"run": "healthy"}}
"""The runs selected at the top of each dashboard."""
COLUMN, ROW = 0.55, 0.34
"""Inches of Grafana's grid."""
LINE = 0.15
"""Inches of a line of the legend."""
LETTER = 0.056
"""Inches of a letter of the smallest text, on average."""
DPI = 96
COLORS = ("#56a64b", "#f2cc0c", "#3274d9", "#ff780a", "#a352cc", "#8a5a44", "#37872d", "#8ab8ff")
NAMED = {
    "red": "#e02f44",
    "dark-red": "#c4162a",
    "dark-blue": "#1f60c4",
    "green": "#56a64b",
    "yellow": "#f2cc0c",
    "purple": "#a352cc",
}
"""Grafana's names of colors."""
LEVELS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"))
BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


@dataclass(frozen=True)
class Curve:
    """A series of a panel."""

    name: str
    times: list[float]
    """Minutes since the begin."""
    values: list[float]
    color: str
    dashed: bool


def written(value: float, unit: str) -> str:
    """Return a value with its unit, roughly as Grafana writes it."""
    if not math.isfinite(value):
        return str(value)
    if unit == "percentunit":
        return f"{round(100 * value, 2):.3g}%"
    if unit.startswith("suffix:"):
        return f"{value:.4g}{unit.removeprefix('suffix:')}"
    scales = {"s": LEVELS, "bytes": BYTES}.get(unit, ())
    for scale, name in scales:
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.4g}" + {"percent": "%", "celsius": " °C", "watt": " W", "s": " s"}.get(unit, "")


def substituted(text: str, variables: Mapping[str, str]) -> str:
    """Return a query or a title with the dashboard's variables replaced."""
    for name, value in variables.items():
        text = text.replace(f"${name}", value)
    return text


def curves(panel: Mapping[str, Any], server: Prometheus, variables: Mapping[str, str]) -> list[Curve]:
    """Return the series of a panel over the whole time, which Grafana, too, asks for to show last values."""
    found: list[Curve] = []
    limits = {
        override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
    }
    for target in panel["targets"]:
        query = substituted(target["expr"], variables)
        for series in server.query_range(query):
            samples, labels = series["values"], series["metric"]
            name = re.sub(r"{{(\w+)}}", lambda match, of=labels: of.get(match[1], ""), target["legendFormat"])
            times = [(float(when) - server.begin) / 60 for when, _ in samples]
            color = NAMED[limits[name]] if name in limits else COLORS[len(found) % len(COLORS)]
            values = [float(value) for _, value in samples]
            found.append(Curve(name, times, values, color, name in limits))
    return found


def draw(dashboard: dict[str, Any], server: Prometheus, variables: Mapping[str, str]) -> Figure:
    """Return a picture of a dashboard."""
    length = f"{math.ceil(server.end - server.begin)}s"
    every = {"namespace": ".*", "__range": length} | variables
    panels = list(_repeated(dashboard["panels"], server, every))
    height = max(place["y"] + place["h"] for _, place, _ in panels)
    figure = Figure(figsize=(24 * COLUMN, (height + 1) * ROW), dpi=DPI, facecolor="white")
    figure.text(0.01, 1 - 0.4 / (height + 1), dashboard["title"], fontsize=13, weight="bold", va="center")
    for panel, place, chosen in panels:
        series = curves(panel, server, chosen) if "targets" in panel else []
        axes = _panel(figure, panel, place, height, series, chosen)
        if axes and panel["type"] in ("timeseries", "state-timeline"):
            axes.set_xlim(0, (server.end - server.begin) / 60)
    return figure


def _repeated(
    panels: Sequence[dict[str, Any]], server: Prometheus, variables: Mapping[str, str]
) -> Iterator[tuple[dict[str, Any], dict[str, int], dict[str, str]]]:
    """Yield every panel with its place and variables; one that is repeated, for each run in one row."""
    for panel in panels:
        place = panel["gridPos"]
        if "repeat" not in panel:
            yield panel, place, dict(variables)
            continue
        selected = substituted('xkd_run_info{run=~"$run"}', variables)
        runs = sorted({series["metric"]["run"] for series in server.query_range(selected)})
        width = 24 // min(len(runs), panel["maxPerRow"])
        for index, run in enumerate(runs[: panel["maxPerRow"]]):
            yield panel, place | {"x": index * width, "w": width}, {**variables, "run": run}


def _panel(
    figure: Figure,
    panel: dict[str, Any],
    place: dict[str, int],
    height: int,
    series: list[Curve],
    variables: Mapping[str, str],
) -> Axes | None:
    """Draw a panel at its place; return the axes of its data, if there is any."""
    inches = (24 * COLUMN, (height + 1) * ROW)
    x, w = place["x"] * COLUMN + 0.06, place["w"] * COLUMN - 0.12
    top, h = (height - place["y"]) * ROW, place["h"] * ROW - 0.1

    def axes(left: float, bottom: float, width: float, tall: float) -> Axes:
        return figure.add_axes((left / inches[0], bottom / inches[1], width / inches[0], tall / inches[1]))

    title = substituted(panel["title"], variables)
    if panel["type"] == "row":
        figure.text(
            x / inches[0], (top - ROW / 2) / inches[1], title, fontsize=11, weight="bold", va="center"
        )
        return None
    card = axes(x, top - h, w, h)
    card.set(xticks=[], yticks=[], facecolor="white")
    card.spines[:].set_color("#d8d9da")
    card.text(0.08 / w, 1 - 0.15 / h, title, fontsize=9, weight="bold", va="center", transform=card.transAxes)
    if not any(math.isfinite(value) for curve in series for value in curve.values):
        reason = panel["fieldConfig"]["defaults"].get("noValue", "No data")
        card.text(0.5, 0.5, reason, color="#8e8e8e", ha="center", va="center", transform=card.transAxes)
        return None
    if panel["type"] == "stat":
        _numbers(card, panel, series)
        return None
    rows = len(series) + 1 if panel["type"] == "timeseries" else 0
    legend = rows * LINE
    left = 0.75 if rows else 0.2 + LETTER * max(len(curve.name) for curve in series)
    inner = axes(x + left, top - h + 0.35 + legend, w - left - 0.25, h - 0.7 - legend)
    inner.tick_params(labelsize=7, length=2)
    inner.spines[["top", "right"]].set_visible(False)
    DRAWN[panel["type"]](inner, panel, series)
    if rows:
        _legend(card, series, panel["fieldConfig"]["defaults"]["unit"], w, h)
    return inner


def _legend(card: Axes, series: Sequence[Curve], unit: str, w: float, h: float) -> None:
    """Write the legend's table: name, last, min and max of every curve."""

    def write(row: int, across: float, text: str, align: str = "left", color: str = "black") -> None:
        where = (across / w, (0.1 + (len(series) - row) * LINE) / h)
        card.text(*where, text, fontsize=6.5, color=color, ha=align, va="center", transform=card.transAxes)

    step = max(
        0.5, LETTER * max(len(written(value, unit)) for curve in series for value in curve.values) + 0.1
    )
    places = (w - 0.1 - 2 * step, w - 0.1 - step, w - 0.1)
    for place, title in zip(places, ("last", "min", "max"), strict=True):
        write(0, place, title, "right", "#3274d9")
    letters = int((w - 0.5 - 3 * step) / LETTER)
    for number, curve in enumerate(series, 1):
        finite = [value for value in curve.values if math.isfinite(value)] or [math.nan]
        write(number, 0.12, "●", color=curve.color)
        write(number, 0.28, curve.name if len(curve.name) <= letters else f"{curve.name[: letters - 1]}…")
        for place, value in zip(places, (finite[-1], min(finite), max(finite)), strict=True):
            write(number, place, written(value, unit), "right")


def _timeseries(axes: Axes, panel: Mapping[str, Any], series: Sequence[Curve]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults.get("custom", {})
    for curve in series:
        axes.plot(
            curve.times,
            curve.values,
            color=curve.color,
            linewidth=1.1,
            linestyle="--" if curve.dashed else "-",
        )
    scale = custom.get("scaleDistribution", {}).get("type")
    if scale == "log":
        axes.set_yscale("log")
    elif scale == "symlog":
        axes.set_yscale("symlog", linthresh=custom["scaleDistribution"]["linearThreshold"])
    if "min" in defaults:
        axes.set_ylim(bottom=defaults["min"])
    if "axisSoftMax" in custom:
        axes.set_ylim(top=max(custom["axisSoftMax"], axes.get_ylim()[1]))
    if "thresholdsStyle" in custom:
        axes.axhline(
            defaults["thresholds"]["steps"][1]["value"], color=NAMED["red"], linewidth=0.8, linestyle="--"
        )
    axes.yaxis.set_major_formatter(lambda value, _: written(value, defaults["unit"]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")
    axes.grid(color="#eeeeee", linewidth=0.6)


def _states(axes: Axes, panel: Mapping[str, Any], series: Sequence[Curve]) -> None:
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    for row, curve in enumerate(series):
        pairs = [
            (t, int(value)) for t, value in zip(curve.times, curve.values, strict=True) if value == value
        ]
        begin = 0
        for index in range(1, len(pairs) + 1):
            if index < len(pairs) and pairs[index][1] == pairs[begin][1]:
                continue
            option = mapping["options"][str(pairs[begin][1])]
            end = pairs[min(index, len(pairs) - 1)][0]
            left = pairs[begin][0]
            axes.barh(row, end - left, left=left, color=NAMED[option["color"]], height=0.7)
            axes.text(left, row, f" {option['text']}", fontsize=7, color="white", va="center", clip_on=True)
            begin = index
    axes.set_yticks(range(len(series)), [curve.name for curve in series])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")


def _bars(axes: Axes, panel: Mapping[str, Any], series: Sequence[Curve]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    values = [curve.values[-1] for curve in series]
    axes.barh(range(len(series)), values, color=COLORS[0], height=0.6)
    for row, value in enumerate(values):
        inside = value > 0.8 * defaults["max"]
        text = f" {written(value, defaults['unit'])} "
        axes.text(value, row, text, fontsize=7, ha="right" if inside else "left", va="center")
    axes.set_xlim(defaults["min"], defaults["max"])
    axes.set_yticks(range(len(series)), [curve.name for curve in series])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: written(value, defaults["unit"]))


def _numbers(card: Axes, panel: Mapping[str, Any], series: Sequence[Curve]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    by_name = panel["options"].get("textMode") == "name"
    for number, curve in enumerate(series):
        where = ((number + 0.5) / len(series), 0.45)
        text = curve.name if by_name else f"{written(curve.values[-1], unit)}\n{curve.name}"
        card.text(
            *where, text, ha="center", va="center", fontsize=9 if by_name else 12, transform=card.transAxes
        )


DRAWN: dict[str, Callable[[Axes, Mapping[str, Any], Sequence[Curve]], None]] = {
    "timeseries": _timeseries,
    "state-timeline": _states,
    "bargauge": _bars,
}
"""How each kind of panel with axes is drawn."""


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG of 128 colors, which is a third as large."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    colors = Image.Quantize.MAXCOVERAGE
    picture = Image.open(buffer).convert("RGB").quantize(128, method=colors, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


if __name__ == "__main__":
    with replayed() as prometheus:
        for uid, variables in CHOSEN.items():
            content = json.loads((HERE / "grafana" / f"{uid}.json").read_text())
            picture = draw(content, prometheus.during(variables["run"]), variables)
            save(picture, FIGURES / f"dashboard-{uid}.png")
