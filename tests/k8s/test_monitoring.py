"""Rules and dashboards, without a cluster: promtool, the schema, and the table of metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from k8s.monitoring.dashboards import DASHBOARDS
from xkd.monitor.metrics import METRICS

MONITORING = Path("k8s/monitoring")
RULES: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDS = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
KNOWN = {metric.name for metric in METRICS} | {"xkd_run_info"} | RECORDS
SCHEMA = Path("../shared/schemas/grafana-dashboard.schema.json")


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL of the dashboards with where it is; variables chosen."""
    for name, content in DASHBOARDS.items():
        for panel in content["panels"]:
            for target in panel["targets"]:
                yield f"{name}, {panel['title']}", chosen(target["expr"])
        for variable in content["templating"]["list"]:
            if variable["type"] != "query":
                continue
            inside = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"])
            assert inside
            yield f"{name}, {variable['name']}", chosen(inside[1])
        yield f"{name}, alerts", chosen(content["annotations"]["list"][0]["expr"])


def chosen(query: str) -> str:
    return query.replace("$namespace", ".*").replace("$run", ".*")


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian package prometheus)")
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_rules_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "groups.yaml").write_text(yaml.safe_dump(RULES))
    shutil.copy(MONITORING / "rules_test.yaml", tmp_path)
    checked = promtool("check", "rules", "groups.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", "rules_test.yaml", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_for_firing_and_for_not_firing() -> None:
    tests = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
    fired, spared = set(), set()
    for test in tests:
        subjects = {subject(series["series"]) for series in test["input_series"]}
        for case in test["alert_rule_test"]:
            among = {
                alert["exp_labels"].get("run") or alert["exp_labels"]["instance"]
                for alert in case["exp_alerts"]
            }
            if among:
                fired.add(case["alertname"])
            if subjects - among:
                spared.add(case["alertname"])
    assert fired == spared == {alert["alert"] for alert in ALERTS}


def subject(series: str) -> str:
    """The run, or the pod, that a series of rules_test.yaml is of."""
    found = re.search(r'(?:run|instance)="([^"]*)"', series)
    assert found, series
    return found[1]


def test_every_alert_says_what_to_do() -> None:
    assert len(ALERTS) <= 10
    headings = re.findall(r"^## (\w+)$", Path("docs/runbook.md").read_text(), re.MULTILINE)
    assert headings == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_every_query_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"query_{n}", "expr": expr} for n, (_, expr) in enumerate(queries())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    checked = promtool("check", "rules", "queries.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_queries_and_rules_name_only_what_a_run_tells() -> None:
    expressions = [*queries(), *((rule["alert"], rule["expr"]) for rule in ALERTS)]
    for group in RULES["groups"]:
        expressions += [(rule["record"], rule["expr"]) for rule in group["rules"] if "record" in rule]
    for where, expression in expressions:
        named = set(re.findall(r"\bxkd[_:][\w:]*", re.sub(r'"[^"]*"', "", expression)))
        assert named <= KNOWN, (where, named - KNOWN)


def test_every_metric_is_on_a_dashboard() -> None:
    shown = " ".join(expression for _, expression in queries())
    shown += " ".join(rule["expr"] for group in RULES["groups"] for rule in group["rules"])
    assert [metric.name for metric in METRICS if not re.search(rf"\b{metric.name}\b", shown)] == []


@pytest.mark.parametrize("name", list(DASHBOARDS))
def test_a_dashboard_is_whole(name: str) -> None:
    """``python -m k8s.monitoring.dashboards k8s/monitoring/grafana`` writes the files."""
    written = json.loads((MONITORING / "grafana" / f"{name}.json").read_text())
    assert written == DASHBOARDS[name]
    assert written["uid"] == name
    if SCHEMA.exists():
        jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(written)
    ids = [panel["id"] for panel in written["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in written["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_panels_do_not_overlap() -> None:
    for content in DASHBOARDS.values():
        taken: set[tuple[int, int]] = set()
        for panel in content["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24
            assert not cells & taken, panel["title"]
            taken |= cells
