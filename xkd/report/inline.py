"""Figures in the page: matplotlib's SVG, cut into its panels, with values to point at and tables of values.

The page has no script. A phone stacks the panels; the colors are CSS variables, which the dark mode replaces.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from xkd.report.plots.training import thin

MAX_STRIPES, MAX_ROWS = 60, 12
"""Places of a curve that have their values shown, by pointing at them and in the table."""
_SVG = "{http://www.w3.org/2000/svg}"
_MARGIN = 3.0
"""Points around a panel."""
_LINE_HEIGHT = 11
ElementTree.register_namespace("", _SVG[1:-1])
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


class Panel(NamedTuple):
    """A figure, or one panel of it, for the page."""

    title: str
    svg: str
    head: Sequence[str] = ()
    """Titles of a table of values; empty: there is none."""
    rows: Sequence[Sequence[str]] = ()


def whole(path: Path, title: str) -> list[Panel]:
    """Return an SVG file as one panel."""
    root = _read(path)
    return [Panel(title, _write(root, root.get("viewBox", ""), title))]


def split(path: Path, figure: Figure) -> list[Panel]:
    """Return the panels of a figure with curves, which the SVG file shows."""
    root = _read(path)
    drawing = root.find(f"{_SVG}g")
    assert drawing is not None
    groups = [group for group in drawing if group.get("id", "").startswith("axes")]
    clips = root.find(f"{_SVG}defs")  # of all panels; the ids are the same wherever they stand
    shown = [axes for axes in figure.axes if axes.get_visible()]
    scale = 72 / figure.dpi
    boxes = [_points(axes.get_tightbbox() or axes.bbox, figure, scale) for axes in shown]
    width, height = (max(getattr(box, name) for box in boxes) + 2 * _MARGIN for name in ("width", "height"))
    panels = list[Panel]()
    for axes, group, box in zip(shown, groups, boxes, strict=True):
        title = axes.get_title(loc="left")
        part = ElementTree.Element(f"{_SVG}svg")
        part.append(group)
        if clips is not None and not panels:
            part.append(clips)
        lines = [line for line in axes.get_lines() if line.get_transform() is axes.transData]  # no limits
        places = sorted({x for line in lines for x in _curve(line)})
        part.append(_values(axes, lines, thin(places, MAX_STRIPES), figure, scale))
        view = f"{box.x0 - _MARGIN:.1f} {box.y0 - _MARGIN:.1f} {width:.1f} {height:.1f}"
        head = [axes.get_xlabel(), *(str(line.get_label()) for line in lines)]
        rows = [[f"{x:g}", *(_value(line, x) for line in lines)] for x in thin(places, MAX_ROWS)]
        panels.append(Panel(title, _write(part, view, title), head, rows))
    return panels


def _points(box: Bbox, figure: Figure, scale: float) -> Bbox:
    """Return a box in pixels from the bottom as one in points from the top."""
    top = figure.bbox.height
    return Bbox.from_extents(box.x0 * scale, (top - box.y1) * scale, box.x1 * scale, (top - box.y0) * scale)


def _values(
    axes: Axes, lines: Sequence[Line2D], places: Sequence[float], figure: Figure, scale: float
) -> ElementTree.Element:
    """Return a stripe for each place, with the values there, which CSS shows while it is pointed at."""
    group = ElementTree.Element(f"{_SVG}g", {"class": "values"})
    frame = _points(axes.get_window_extent(), figure, scale)
    xs = [axes.transData.transform((x, 0.0))[0] * scale for x in places]
    for x, place, (left, right) in zip(xs, places, _edges(xs, frame), strict=True):
        stripe = ElementTree.SubElement(group, f"{_SVG}g")
        size = {"x": left, "y": frame.y0, "width": right - left, "height": frame.height}
        ElementTree.SubElement(stripe, f"{_SVG}rect", {name: f"{value:.1f}" for name, value in size.items()})
        first_half = x < (frame.x0 + frame.x1) / 2
        at = f"{x + 5 if first_half else x - 5:.1f}"
        anchor = "start" if first_half else "end"
        text = ElementTree.SubElement(stripe, f"{_SVG}text", {"y": f"{frame.y0:.1f}", "text-anchor": anchor})
        entries = [(f"{axes.get_xlabel()} {place:g}", "")]
        entries += [(f"{line.get_label()} {_value(line, place)}", str(line.get_color())) for line in lines]
        for words, color in entries:
            style = {"style": f"fill: {color}"} if color else {}
            span = ElementTree.SubElement(text, f"{_SVG}tspan", {"x": at, "dy": str(_LINE_HEIGHT)} | style)
            span.text = words
    return group


def _edges(xs: Sequence[float], frame: Bbox) -> Iterator[tuple[float, float]]:
    """Yield the left and right edge of the stripe of each place: halfway to its neighbors."""
    yield from pairwise([frame.x0, *((a + b) / 2 for a, b in pairwise(xs)), frame.x1])


def _curve(line: Line2D) -> dict[float, float]:
    """Return the values of a curve by their places."""
    return dict(line.get_xydata().tolist())  # type: ignore[union-attr]


def _value(line: Line2D, x: float) -> str:
    """Return the value of a curve at a place as text, or a dash."""
    value = _curve(line).get(x, math.nan)
    return f"{value:.4g}" if math.isfinite(value) else "\N{EN DASH}"


def _read(path: Path) -> ElementTree.Element:
    """Return an SVG file of matplotlib without what only a file needs."""
    root = ElementTree.parse(path).getroot()  # noqa: S314 -- our own file
    for name in ("metadata", "defs"):  # the first definitions are a style for every element of a document
        if (found := root.find(f"{_SVG}{name}")) is not None:
            root.remove(found)
    return root


def _write(root: ElementTree.Element, view: str, title: str) -> str:
    """Return an SVG element for the page, with colors that the page may replace."""
    root.attrib.clear()
    root.attrib |= {"viewBox": view, "role": "img", "aria-label": title}
    for group in root.iter(f"{_SVG}g"):
        name = group.attrib.pop("id", "")  # the same in every figure
        if name.startswith("legend"):
            group.set("class", "legend")
    text = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r"(: )#([0-9a-f]{6})\b", r"\1var(--f-\2, #\2)", text)
