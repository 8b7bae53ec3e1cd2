"""Grafana's JSON: panels, choices, links, and a dashboard of them all.

What a panel says is in `k8s.monitoring.dashboards`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTED = ('namespace=~"$namespace"', 'run=~"$run"')
"""Matchers of what is chosen at the top."""
POD = "pod, instance, container, endpoint, job"
"""Labels of where a series was scraped."""
COLUMNS = 24
"""Of Grafana's grid."""


@dataclass
class Panel:
    """One panel: its queries by legend, and how they are drawn."""

    title: str
    description: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    defaults: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    repeat: str = ""

    def to_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """As Grafana has it."""
        targets = [
            {"refId": chr(65 + i), "expr": expr, "legendFormat": legend, "datasource": DATASOURCE}
            for i, (legend, expr) in enumerate(self.queries.items())
        ]
        panel = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": targets,
            "fieldConfig": {"defaults": {"unit": self.unit, **self.defaults}, "overrides": []},
            "options": self.options,
        }
        return panel | (
            {"repeat": self.repeat, "repeatDirection": "h", "maxPerRow": 3} if self.repeat else {}
        )


def of(metric: str, *matchers: str) -> str:
    """The series of the selected runs, whichever pod they came from: a replaced pod starts no new curve."""
    return f"max without ({POD}) ({metric}{{{', '.join([*SELECTED, *matchers])}}})"


def variable(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    """A choice at the top, from a label's values."""
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "multi": several,
        "includeAll": several,
    } | ({"current": everything} if several else {})


def address(name: str, label: str, usual: str) -> dict[str, Any]:
    """A box at the top for the URL of another service."""
    return {"name": name, "label": label, "type": "textbox", "query": usual}


def dashboard(
    uid: str, title: str, panels: list[Panel], choices: list[dict[str, Any]], links: list[dict[str, Any]]
) -> dict[str, Any]:
    """A whole dashboard: panels from left to right, row after row."""
    placed: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > COLUMNS:
            x, y = 0, y + max(p["gridPos"]["h"] for p in placed if p["gridPos"]["y"] == y)
        placed.append(panel.to_json(number, x, y))
        x += panel.width
    alerts = {
        "name": "Alerts",
        "enable": True,
        "datasource": DATASOURCE,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"XKD.*", alertstate="firing", namespace=~"$namespace|", run=~"$run|"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{run}}",
    }
    return {
        "uid": uid,
        "title": title,
        "tags": ["xkd"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": choices},
        "annotations": {"list": [alerts]},
        "links": links,
        "panels": placed,
    }


def link(title: str, url: str) -> dict[str, Any]:
    """A link to another page, that takes the choices along; at the top, or of a value."""
    return {
        "title": title,
        "type": "link",
        "icon": "external link",
        "url": url,
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "targetBlank": True,
        "includeVars": True,
        "keepTime": True,
    }
