"""Alert rules and dashboards, checked with promtool, Grafana's schema and the table of metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from k8s.monitoring.dashboards import DASHBOARDS
from tests.k8s.schemas import SCHEMAS
from xkd.monitor.collapse import ZERO
from xkd.monitor.metrics import METRICS, RUN_VERDICTS, SCORE

MONITORING = Path("k8s/monitoring")
RULE_TESTS = ("rules_test.yaml", "rules_test_days.yaml")
RULES: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDS = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
KNOWN = {metric.name for metric in METRICS} | {"xkd_run_info", SCORE} | RECORDS
SCHEMA = json.loads((SCHEMAS / "grafana-dashboard.schema.json").read_text())
# Anything in Grafana's source, which its schema publishes as an object; the matcher `byName` takes a string.
SCHEMA["definitions"]["MatcherConfig"]["properties"]["options"] = {}


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression of the dashboards with its place; variables are substituted."""
    for name, content in DASHBOARDS.items():
        for panel in content["panels"]:
            for target in panel.get("targets", []):
                yield f"{name}, {panel['title']}", substituted(target["expr"])
        for variable in content["templating"]["list"]:
            if variable["type"] != "query":
                continue
            inside = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"])
            assert inside
            yield f"{name}, {variable['name']}", substituted(inside[1])
        yield f"{name}, alerts", substituted(content["annotations"]["list"][0]["expr"])


def substituted(query: str) -> str:
    return query.replace("$namespace", ".*").replace("$run", ".*").replace("$__range", "6h")


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian package prometheus)")
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.system
def test_the_alert_rules_pass_the_tests_of_promtool(tmp_path: Path) -> None:
    (tmp_path / "groups.yaml").write_text(yaml.safe_dump(RULES))
    for name in RULE_TESTS:
        shutil.copy(MONITORING / name, tmp_path)
    checked = promtool("check", "rules", "groups.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", *RULE_TESTS, cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_for_firing_and_for_not_firing() -> None:
    files = [yaml.safe_load((MONITORING / name).read_text()) for name in RULE_TESTS]
    groups = [group["name"] for group in RULES["groups"]]
    assert [file["group_eval_order"] for file in files] == [groups, groups]
    fired, silent = set(), set()
    for test in (test for file in files for test in file["tests"]):
        series = [dict(re.findall(r'(\w+)="([^"]*)"', each["series"])) for each in test["input_series"]]
        subjects = {subject(labels) for labels in series}
        for case in test.get("alert_rule_test", []):
            firing = {subject(alert["exp_labels"]) for alert in case["exp_alerts"]}
            if firing:
                fired.add(case["alertname"])
            if subjects - firing:
                silent.add(case["alertname"])
    assert fired == silent == {alert["alert"] for alert in ALERTS}


def subject(labels: dict[str, str]) -> str:
    """The run, job, queue or pod that a series or an alert of these tests is about."""
    if "pod" in labels:
        labels = {"vcjob": labels["pod"].partition("-train-")[0]} | labels
    return next(labels[name] for name in ("run", "vcjob", "queue_name", "instance") if name in labels)


def test_every_alert_has_a_severity_annotations_and_a_runbook_entry() -> None:
    headings = re.findall(r"^## (\w+)$", Path("docs/runbook.md").read_text(), re.MULTILINE)
    assert headings == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_every_query_is_valid_promql(tmp_path: Path) -> None:
    rules = [{"record": f"query_{n}", "expr": expr} for n, (_, expr) in enumerate(queries())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    checked = promtool("check", "rules", "queries.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_queries_and_rules_name_only_metrics_of_the_table() -> None:
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
def test_a_committed_dashboard_is_what_the_generator_makes_and_valid(name: str) -> None:
    """``python k8s/monitoring/dashboards.py`` writes the files."""
    written = json.loads((MONITORING / "grafana" / f"{name}.json").read_text())
    assert written == DASHBOARDS[name]
    assert written["uid"] == name
    jsonschema.Draft7Validator(SCHEMA).validate(written)
    ids = [panel["id"] for panel in written["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in written["panels"]:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_the_dashboards_have_the_verdicts_and_the_threshold_of_the_detector() -> None:
    panels = {panel["title"]: panel for panel in DASHBOARDS["xkd-run"]["panels"]}
    (mapping,) = panels["Verdict"]["fieldConfig"]["defaults"]["mappings"]
    assert [option["text"] for option in mapping["options"].values()] == list(RUN_VERDICTS)
    (verdict,) = panels["Verdict"]["targets"]
    assert re.findall(r'(\d) \* .*?verdict="(\w+)"', verdict["expr"]) == [
        (str(number), name) for number, name in enumerate(RUN_VERDICTS)
    ]
    assert panels["Information"]["targets"][1]["expr"].startswith(f"{ZERO} * ")
    shares = next(p for p in DASHBOARDS["xkd-fleet"]["panels"] if p["title"].startswith("KD, KLD"))
    assert shares["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == ZERO
    assert f"{ZERO:.0%}" in shares["description"]


def test_the_generator_writes_the_committed_files(tmp_path: Path) -> None:
    (tmp_path / "grafana").mkdir()
    for name in ("dashboards.py", "grafana/dashboards.yaml"):
        shutil.copy(MONITORING / name, tmp_path / name)
    subprocess.run([sys.executable, "dashboards.py"], cwd=tmp_path, check=True)
    for name in DASHBOARDS:
        committed = (MONITORING / "grafana" / f"{name}.json").read_text()
        assert (tmp_path / "grafana" / f"{name}.json").read_text() == committed


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


UNITS = {
    r"_nats\b": "suffix: nats",
    r"_seconds\b": "s",
    r"_bytes\b": "bytes",
    r"xkd_samples_per_second\b": "suffix: clips/s",
    r":ratio\b": "percentunit",
    r"xkd_evaluation_score\b": "percentunit",
}


def test_panels_have_the_units_of_their_metrics_and_legends_with_last_min_and_max() -> None:
    found = set()
    for content in DASHBOARDS.values():
        for panel in content["panels"]:
            if panel["type"] == "timeseries":
                assert panel["options"]["legend"]["calcs"] == ["lastNotNull", "min", "max"]
            for target in panel.get("targets", []):
                for pattern, unit in UNITS.items():
                    if re.search(pattern, re.sub(r"{[^}]*}", "", target["expr"])):
                        assert panel["fieldConfig"]["defaults"]["unit"] == unit, panel["title"]
                        found.add(pattern)
    assert found == UNITS.keys()


def test_legends_of_several_runs_name_the_namespace() -> None:
    for panel in DASHBOARDS["xkd-fleet"]["panels"]:
        for target in panel.get("targets", []):
            if "xkd_evaluation_score" not in target["expr"] and "volcano" not in target["expr"]:
                assert "{{namespace}}" in target["legendFormat"], panel["title"]
