"""Final scores for Prometheus, by way of a Pushgateway: steps that score are gone before a scrape."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from http.client import HTTPException

from prometheus_client import CollectorRegistry, Gauge, delete_from_gateway, push_to_gateway

from xkd.monitor.metrics import SCORE, SCORE_LABELS, USUAL_SCRAPE_SECONDS


def push_scores(
    run: str,
    scores: Iterable[tuple[Mapping[str, str], float]],
    address: str,
    hold: float = USUAL_SCRAPE_SECONDS,
) -> None:
    """Push a run's scores, wait until they were scraped, and delete them: a Pushgateway never forgets.

    A Pushgateway that cannot be reached is reported in a line; what was measured does not depend on it.

    Args:
        run: name of the run.
        scores: labels (`SCORE_LABELS`) and a share between 0 and 1.
        address: URL of the Pushgateway.
        hold: seconds between the pushing and the deleting.
    """
    registry = CollectorRegistry()
    gauge = Gauge(SCORE, "Score of a frozen encoder, between 0 and 1", SCORE_LABELS, registry=registry)
    for labels, score in scores:
        gauge.labels(*(labels[name] for name in SCORE_LABELS)).set(score)
    try:
        push_to_gateway(address, "xkd", registry, {"run": run}, timeout=10)
        time.sleep(hold)
        delete_from_gateway(address, "xkd", {"run": run}, timeout=10)
    except (OSError, ValueError, HTTPException) as error:
        reason = " ".join(str(error).split())
        print(f"xkd: the scores are not at the Pushgateway {address}: {reason}", file=sys.stderr, flush=True)
