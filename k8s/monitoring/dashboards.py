"""Generator of the Grafana dashboards: ``python k8s/monitoring/dashboards.py`` writes grafana/*.json.

The panels and their queries are in grafana/dashboards.yaml.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTED = 'namespace=~"$namespace", run=~"$run"'
"""Matchers of the runs selected at the top."""
SELECTED_IN_PART = {
    "xkd:job_pods:count": 'namespace=~"$namespace"',  # pods do not know the run
    "xkd_evaluation_score": 'run=~"$run"',  # a Pushgateway is in another namespace
}
"""Matchers of metrics that do not have both labels."""
SCRAPE_LABELS = "pod, instance, container, endpoint, job"
LEGEND = {
    "legend": {
        "displayMode": "table",
        "placement": "bottom",
        "showLegend": True,
        "calcs": ["lastNotNull", "min", "max"],
    },
    "tooltip": {"mode": "multi", "sort": "desc"},
}
"""Options of curves."""
COLUMNS = 24
"""Width of Grafana's grid."""
LIMITS = {"ln K": "dark-blue", "capacity": "dark-blue", "collapse": "red"}
"""Colors of the dashed curves that are limits, by name."""
ALERTS = {
    "name": "Alerts",
    "enable": True,
    "datasource": DATASOURCE,
    "iconColor": "red",
    "expr": 'ALERTS{alertname=~"XKD.*", alertstate="firing", namespace=~"$namespace|", run=~"$run|"}',
    "titleFormat": "{{alertname}}",
    "textFormat": "{{run}}",
}


def select_runs(query: str) -> str:
    """Restrict every metric of a query to the selected runs.

    A series continues when the pod is replaced: labels of the scrape are aggregated away.
    """

    def restrict(match: re.Match[str]) -> str:
        function, metric, matchers, window = (group or "" for group in match.groups())
        selected = SELECTED_IN_PART.get(metric, SELECTED) + (f", {matchers}" if matchers else "")
        return f"max without ({SCRAPE_LABELS}) ({function}{metric}{{{selected}}}{window})"

    return re.sub(r"(\w+_over_time\()?\b(xkd[_:][\w:]+)(?:{([^}]*)})?(\[[^]]*\]\))?", restrict, query)


def panel_json(panel: dict[str, Any], number: int, x: int, y: int) -> dict[str, Any]:
    """Return a panel of dashboards.yaml as Grafana's JSON."""
    if "row" in panel:
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        return {
            "id": number,
            "type": "row",
            "title": panel["row"],
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
    kind = panel.get("kind", "timeseries")
    defaults = {"unit": panel.get("unit", "short"), **panel.get("defaults", {})}
    if "empty" in panel:
        defaults["noValue"] = f"No data: {panel['empty']}"
    if "links" in panel:
        defaults["links"] = links(panel["links"])
    return {
        "id": number,
        "type": kind,
        "title": panel["title"],
        "description": panel["description"],
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.get("width", 8), "h": panel.get("height", 8)},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": select_runs(query),
                "legendFormat": legend,
                "datasource": DATASOURCE,
            }
            for index, (legend, query) in enumerate(panel["queries"].items())
        ],
        "fieldConfig": {
            "defaults": defaults,
            "overrides": [dashed(name, LIMITS[name]) for name in panel["queries"] if name in LIMITS],
        },
        "options": panel.get("options", LEGEND if kind == "timeseries" else {}),
    } | ({"repeat": panel["repeat"], "repeatDirection": "h", "maxPerRow": 3} if "repeat" in panel else {})


def dashed(name: str, color: str) -> dict[str, Any]:
    """Return the override that draws one curve dashed and in a color of its own."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": color}},
            {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}},
        ],
    }


def variables(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the inputs at the top: the data source, the namespace, the runs, and URLs of other services."""
    several = content["several_runs"]
    everything = {"current": {"selected": True, "text": ["All"], "value": ["$__all"]}} if several else {}
    queries = {
        "namespace": "label_values(xkd_run_info, namespace)",
        "run": 'label_values(xkd_run_info{namespace=~"$namespace"}, run)',
    }
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        *(
            {
                "name": name,
                "label": name.capitalize(),
                "type": "query",
                "datasource": DATASOURCE,
                "query": query,
                "refresh": 2,
                "sort": 1,
                "multi": several,
                "includeAll": several,
                **everything,
            }
            for name, query in queries.items()
        ),
        *(
            {"name": name, "label": url["label"], "type": "textbox", "query": url["default"]}
            for name, url in content.get("urls", {}).items()
        ),
    ]


def links(urls: dict[str, str]) -> list[dict[str, Any]]:
    """Return links by title, which pass on the selected runs and time range."""
    return [
        {
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
        for title, url in urls.items()
    ]


def dashboard(uid: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return a dashboard of dashboards.yaml as Grafana's JSON, its panels placed row by row."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(content["panels"], 1):
        if x + panel.get("width", COLUMNS if "row" in panel else 8) > COLUMNS:
            x, y = 0, y + max(p["gridPos"]["h"] for p in panels if p["gridPos"]["y"] == y)
        panels.append(panel_json(panel, number, x, y))
        x += panels[-1]["gridPos"]["w"]
    return {
        "uid": uid,
        "title": content["title"],
        "tags": ["xkd"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables(content)},
        "annotations": {"list": [ALERTS]},
        "links": links(content["links"]),
        "panels": panels,
    }


_CONTENT: dict[str, Any] = yaml.safe_load((HERE / "grafana" / "dashboards.yaml").read_text())
DASHBOARDS = {uid: dashboard(uid, content) for uid, content in _CONTENT["dashboards"].items()}


if __name__ == "__main__":
    for name, written in DASHBOARDS.items():
        (HERE / "grafana" / f"{name}.json").write_text(json.dumps(written, indent=2) + "\n")
