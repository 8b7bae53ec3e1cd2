"""The dashboards over recorded runs in a real Prometheus, and their pictures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from matplotlib.figure import Figure

from k8s.monitoring.dashboards import DASHBOARDS
from k8s.monitoring.pictures import CHOSEN, FIGURES, draw
from k8s.monitoring.recording import RULES, Prometheus, replayed
from tests.k8s.test_monitoring import queries

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")),
        reason="needs the Debian package prometheus",
    ),
]

FOREIGN = ("xkd:job_pods", "volcano_queue", "xkd:gpu:dcgm", "xkd_gpu_memory", "xkd_loss_scale", "ALERTS")
"""Series of other exporters, of training on a GPU, and of alerts: no recorded run has these."""


@pytest.fixture(scope="module")
def server() -> Iterator[Prometheus]:
    with replayed() as running:
        yield running


def test_every_query_of_the_dashboards_runs_over_the_recorded_runs(server: Prometheus) -> None:
    for where, query in queries():
        foreign = any(name in query for name in FOREIGN)
        assert bool(server.query_range(query)) is not foreign, (where, query)


def test_every_record_of_a_run_is_evaluated(server: Prometheus) -> None:
    records = [rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule]
    empty = [name for name in records if not server.query_range(name)]
    assert empty == ["xkd:job_pods:count", "xkd:gpu:dcgm"]


def test_the_recorded_runs_show_a_collapse_and_a_slow_process(server: Prometheus) -> None:
    (collapsed,) = server.query_range('xkd_verdict{verdict="one_hot"} == 1')
    assert collapsed["metric"]["run"] == "collapsing"
    slow = server.query_range('avg_over_time(xkd:rank_lag:ratio{run="healthy"}[30s]) > 0.1')
    assert {series["metric"]["rank"] for series in slow} == {"1"}


def test_the_recorded_scores_are_those_of_a_pushgateway(server: Prometheus) -> None:
    scores = server.query_range("last_over_time(xkd_evaluation_score[1h])")
    assert {series["metric"]["encoder"] for series in scores} == {"teacher", "random"}
    assert {series["metric"]["run"] for series in scores} == {"healthy"}
    assert {series["metric"]["job"] for series in scores} == {"xkd"}


@pytest.mark.parametrize("name", list(DASHBOARDS))
def test_a_picture_has_every_panel_and_its_numbers(server: Prometheus, name: str) -> None:
    figure = draw(DASHBOARDS[name], server, CHOSEN[name])
    written = texts(figure)
    titles = {panel["title"].partition("$")[0] for panel in DASHBOARDS[name]["panels"]}
    assert [title for title in titles if not any(text.startswith(title) for text in written)] == []
    assert any(re.fullmatch(r"[\d.]+ clips/s", text) for text in written)
    assert "No data" not in written  # without a reason
    assert (FIGURES / f"dashboard-{name}.png").exists()


def texts(figure: Figure) -> list[str]:
    drawn = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return [text.get_text() for text in drawn]
