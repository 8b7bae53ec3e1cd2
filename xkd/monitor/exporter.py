"""The Prometheus endpoint of a run, and the publication of its final scores."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import delete_from_gateway, push_to_gateway
from prometheus_client.registry import Collector

from xkd.errors import UserError
from xkd.io import one_line
from xkd.log import get_logger
from xkd.monitor.metrics import DEFAULT_SCRAPE_SECONDS, INFO, METRICS, SCORE, SCORE_LABELS

_log = get_logger(__name__)
_GATEWAY_ERRORS = (OSError, ValueError, HTTPException)


class MetricsExporter(Collector):
    """The newest value of every metric, served at ``/metrics``.

    A gauge without a value is NaN: those of prometheus-client start at 0, which looks like a collapse.

    Args:
        run: value of the label ``run``.
        info: labels of ``xkd_run_info``; other keys are ignored.
        values: fields that are known from the start.
    """

    def __init__(self, run: str, info: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        self._run = run
        self._info = {name: str(info.get(name, "")) for name in INFO}
        self._values = values
        self._scrapes = 0
        self._server: Any = None
        self.address: str | None = None
        """URL of the endpoint once it is served."""

    def update(self, values: Mapping[str, Any]) -> None:
        """Set new values of fields; the others keep theirs."""
        self._values = {**self._values, **values}  # never changed in place: the server's thread reads it

    def serve(self, host: str, port: int) -> None:
        """Serve the metrics from a thread; port 0 takes any free port.

        Raises:
            UserError: the port is taken, or `host` is not an address of this machine.
        """
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, _ = start_http_server(port, host, registry)
        except (OSError, UnicodeError) as error:  # UnicodeError: no host can have such a name
            reason = getattr(error, "strerror", None) or one_line(error)
            if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise UserError(
                    f"run.metrics_port {port}: {reason}; choose another port, or 0 for any free one"
                ) from None
            raise UserError(
                f"run.metrics_host {host!r}: {reason}; give an address of this machine, or 0.0.0.0 for all"
            ) from None
        # The data loader's processes must not keep the port in use.
        os.register_at_fork(after_in_child=self._server.socket.close)
        self.address = f"http://{_reachable(*self._server.server_address[:2])}/metrics"

    def await_scrape(self) -> None:
        """Wait for the next scrape, if Prometheus has scraped before."""
        scrapes, deadline = self._scrapes, time.monotonic() + DEFAULT_SCRAPE_SECONDS
        if scrapes:
            _log.info("waiting until Prometheus has the last values, at most %g s", DEFAULT_SCRAPE_SECONDS)
        while scrapes and self._scrapes == scrapes and time.monotonic() < deadline:
            time.sleep(0.1)

    def close(self) -> None:
        """Stop serving and free the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not count as a scrape."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics; called for each scrape."""
        self._scrapes += 1
        values = self._values
        info = GaugeMetricFamily("xkd_run_info", "Facts about the run; always 1", labels=["run", *self._info])
        info.add_metric([self._run, *self._info.values()], 1)
        yield info
        for metric in METRICS:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            names = ["run", metric.label] if metric.label else ["run"]
            family = kind(metric.name, metric.description, labels=names)
            for label, value in metric.samples(values):
                family.add_metric([self._run, *label], value)
            yield family


def _reachable(host: str, port: int) -> str:
    """Return the part of a URL at which a server that is bound to an IP address answers."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 -- this binds nothing
        host = "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def push_scores(
    run: str,
    scores: Iterable[tuple[Mapping[str, str], float]],
    address: str,
    hold_seconds: float = DEFAULT_SCRAPE_SECONDS,
) -> None:
    """Push a run's scores to a Pushgateway, wait for a scrape, and delete them: it never expires metrics.

    Evaluation processes end before a scrape. The scores are also deleted if the wait is interrupted. An
    unreachable Pushgateway is reported in one line; the scores on disk do not depend on it. Each score,
    between 0 and 1, comes with its labels (`SCORE_LABELS`).
    """
    registry = CollectorRegistry()
    gauge = Gauge(SCORE, "Evaluation score, between 0 and 1", SCORE_LABELS, registry=registry)
    for labels, score in scores:
        gauge.labels(*(labels[name] for name in SCORE_LABELS)).set(score)
    reached = True
    try:
        push_to_gateway(address, "xkd", registry, {"run": run}, timeout=10)
        time.sleep(hold_seconds)
    except _GATEWAY_ERRORS as error:
        reached = False
        _log.warning("cannot push the scores to the Pushgateway %s: %s", address, one_line(error))
    finally:
        if reached:
            _delete_scores(run, address)


def _delete_scores(run: str, address: str) -> None:
    try:
        delete_from_gateway(address, "xkd", {"run": run}, timeout=10)
    except _GATEWAY_ERRORS as error:
        problem = one_line(error)
        _log.warning("cannot delete the scores of %s from the Pushgateway %s: %s", run, address, problem)
