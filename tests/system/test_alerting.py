"""A collapse from the training process to the webhook: real runs, Prometheus and Alertmanager."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.test_monitoring import ALERTS, RECORDS, RULES, queries
from tests.ports import free_port
from tests.tiny import collapsing_config, tiny_config
from xkd.config import PretrainConfig
from xkd.config.overrides import to_dict

SERVERS = ("prometheus", "prometheus-alertmanager")
pytestmark = pytest.mark.skipif(
    any(shutil.which(server) is None for server in SERVERS),
    reason="needs the Debian packages prometheus and prometheus-alertmanager",
)


class Webhook(http.server.BaseHTTPRequestHandler):
    """The receiver of Alertmanager's alerts."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received += json.loads(body)["alerts"]
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(FOREIGN.encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


FOREIGN = """\
kube_pod_status_phase{namespace="local",pod="xkd-healthy-0123456789-train-0-0",phase="Running"} 1
volcano_queue_pod_group_pending_count{queue_name="xkd"} 0
volcano_queue_pod_group_inqueue_count{queue_name="xkd"} 0
xkd_evaluation_score{run="healthy",dataset="d",modality="audio",protocol="svm",encoder="random",fold="1"} 0.5
"""
FOREIGN += "".join(
    f'DCGM_FI_DEV_{field}{{namespace="local",pod="xkd-healthy-0123456789-train-0-0",gpu="0"}} 10\n'
    for field in ("GPU_UTIL", "GPU_TEMP", "POWER_USAGE", "FB_USED", "FB_FREE", "XID_ERRORS")
)
"""Metrics as kube-state-metrics, Volcano, a Pushgateway and dcgm-exporter export them."""


@contextmanager
def started(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.kill()


class Prometheus:
    """The API of a running server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found


@pytest.fixture(scope="module")
def watched(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A healthy and a collapsing run under the shipped rules, scraped and evaluated every second."""
    folder = tmp_path_factory.mktemp("watched")
    ports = {name: free_port() for name in ("healthy", "collapsing", "prometheus", "alertmanager")}
    received: list[dict[str, Any]] = []
    handler = type("Handler", (Webhook,), {"received": received})
    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=hook.serve_forever, daemon=True).start()

    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
    config: dict[str, Any] = yaml.safe_load(Path("k8s/monitoring/local/prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [
        f"127.0.0.1:{ports['alertmanager']}"
    ]
    config["scrape_configs"][0]["static_configs"] = [
        {
            "targets": [f"127.0.0.1:{ports[run]}"],
            "labels": {"namespace": "local", "pod": f"xkd-{run}-0123456789-train-0-0"},
        }
        for run in ("healthy", "collapsing")
    ]
    others: dict[str, Any] = {"job_name": "others", "honor_labels": True}
    others["static_configs"] = [{"targets": [f"127.0.0.1:{hook.server_port}"]}]
    config["scrape_configs"].append(others)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    route = {"receiver": "hook", "group_by": ["..."], "group_wait": "0s"}
    url = f"http://127.0.0.1:{hook.server_port}/"
    receivers = [{"name": "hook", "webhook_configs": [{"url": url}]}]
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump({"route": route, "receivers": receivers}))

    def train(name: str, config: PretrainConfig) -> tuple[str, ...]:
        run = replace(config.run, metrics_port=ports[name])
        settings = json.dumps(to_dict(replace(config, run=run)))
        paths = ("--data", str(prepared), "--out", str(folder / name))
        return (sys.executable, "-m", "xkd.train.pretrain", "--settings", settings, *paths)

    healthy = replace(tiny_config(), optim=replace(tiny_config().optim, epochs=10_000))
    collapsing = collapsing_config()
    # Ten rows of twenty steps take some seconds, so that it is scraped before it ends.
    collapsing = replace(
        collapsing,
        optim=replace(collapsing.optim, epochs=40),
        run=replace(collapsing.run, on_collapse="stop", log_every=20),
    )
    with ExitStack() as stack:

        def start(name: str, *command: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(started(*command, log=folder / f"{name}.log"))

        address = f"127.0.0.1:{ports['prometheus']}"
        start(
            "alertmanager",
            "prometheus-alertmanager",
            f"--config.file={folder}/alertmanager.yaml",
            f"--storage.path={folder}/alertmanager",
            f"--web.listen-address=127.0.0.1:{ports['alertmanager']}",
            "--cluster.listen-address=",
        )
        start(
            "prometheus",
            "prometheus",
            f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/prometheus",
            f"--web.listen-address={address}",
        )
        runs = {"healthy": start("healthy", *train("healthy", healthy))}
        runs["collapsing"] = start("collapsing", *train("collapsing", collapsing))
        server = Prometheus(f"http://{address}")
        ended = runs["collapsing"].wait(timeout=300)
        deadline = time.monotonic() + 120
        while not received and time.monotonic() < deadline:
            time.sleep(0.2)
        while len(server.query("xkd:kd:ratio{run='healthy'}")) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        yield {"server": server, "received": received, "ended": ended, "healthy": runs["healthy"]}
    hook.shutdown()


def test_a_collapse_that_ended_its_run_reaches_the_webhook(watched: dict[str, Any]) -> None:
    assert watched["ended"] == 76
    (alert,) = watched["received"]
    assert alert["status"] == "firing"
    assert alert["labels"] | {"instance": ""} == {
        "alertname": "XKDCollapsedConstant",
        "instance": "",
        "job": "xkd-local",
        "namespace": "local",
        "pod": "xkd-collapsing-0123456789-train-0-0",
        "run": "collapsing",
        "severity": "critical",
        "verdict": "constant",
    }
    assert alert["annotations"]["runbook_url"] == "docs/runbook.md#xkdcollapsedconstant"
    assert "collapsing" in alert["annotations"]["summary"]


def test_the_healthy_run_fires_no_alert(watched: dict[str, Any]) -> None:
    assert watched["healthy"].poll() is None
    server = watched["server"]
    (verdict,) = server.query('xkd_verdict{run="healthy"} == 1')
    assert verdict["metric"]["verdict"] == "healthy"
    raised = server.query("ALERTS")
    assert {(a["metric"]["alertname"], a["metric"].get("run")) for a in raised} <= {
        ("XKDCollapsedConstant", "collapsing")
    }


def test_every_query_of_the_dashboards_returns_data(watched: dict[str, Any]) -> None:
    server = watched["server"]
    empty = [query for _, query in queries() if not server.query(query)]
    # Of training on a GPU, and of run.probe_every.
    absent = ("xkd_gpu_memory", "xkd_loss_scale", "xkd_validation_loss", "xkd_knn_accuracy_ratio")
    assert [query for query in empty if not any(name in query for name in absent)] == []


def test_every_rule_is_evaluated_and_every_record_has_data(watched: dict[str, Any]) -> None:
    server = watched["server"]
    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == RECORDS | {alert["alert"] for alert in ALERTS}
    assert all(rule["health"] == "ok" for rule in rules)
    assert [record for record in RECORDS if not server.query(record)] == []
