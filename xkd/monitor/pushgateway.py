"""Publication of final scores through a Pushgateway: evaluation processes end before a scrape."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from http.client import HTTPException

from prometheus_client import CollectorRegistry, Gauge, delete_from_gateway, push_to_gateway

from xkd.io import one_line
from xkd.log import get_logger
from xkd.monitor.metrics import DEFAULT_SCRAPE_SECONDS, SCORE, SCORE_LABELS

_log = get_logger(__name__)


def push_scores(
    run: str,
    scores: Iterable[tuple[Mapping[str, str], float]],
    address: str,
    hold_seconds: float = DEFAULT_SCRAPE_SECONDS,
) -> None:
    """Push a run's scores, wait for a scrape, and delete them: a Pushgateway never expires metrics.

    An unreachable Pushgateway is reported in one line; the scores on disk do not depend on it.

    Args:
        run: name of the run.
        scores: labels (`SCORE_LABELS`) and a score between 0 and 1.
        address: URL of the Pushgateway.
        hold_seconds: time between pushing and deleting.
    """
    registry = CollectorRegistry()
    gauge = Gauge(SCORE, "Evaluation score, between 0 and 1", SCORE_LABELS, registry=registry)
    for labels, score in scores:
        gauge.labels(*(labels[name] for name in SCORE_LABELS)).set(score)
    try:
        push_to_gateway(address, "xkd", registry, {"run": run}, timeout=10)
        time.sleep(hold_seconds)
        delete_from_gateway(address, "xkd", {"run": run}, timeout=10)
    except (OSError, ValueError, HTTPException) as error:
        _log.warning("cannot push the scores to the Pushgateway %s: %s", address, one_line(error))
