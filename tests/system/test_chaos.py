"""A pretraining whose launcher, pipeline run, worker and pods fail one after the other."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from benchmarks.chaos import SETTINGS, Pipeline, losses, train
from benchmarks.faults import CHECKPOINT_STEPS, DisturbedRun, Recovery
from benchmarks.hosts import can_create_hosts
from benchmarks.volcano import Volcano

pytestmark = pytest.mark.skipif(
    not can_create_hosts(), reason="network namespaces need root, its capabilities and ip (iproute2)"
)


def fail(run: DisturbedRun, pipeline: Pipeline, volcano: Volcano) -> list[Recovery]:
    return [
        run.endure("evicted", pipeline.evict),
        run.endure("failed", pipeline.fail),
        run.measure("worker", lambda: os.kill(run.hosts.worker(1), signal.SIGKILL)),
        run.measure("both", volcano.lose_all_pods),
    ]


def test_a_training_survives_what_surrounds_it_and_loses_nothing(prepared: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, "encoder.dim=16", "encoder.heads=2", "optim.epochs=56"]
    costs, disturbed = train(tmp_path / "disturbed", prepared, settings, fail)
    for cost in costs:
        assert 0 <= cost.repeated <= CHECKPOINT_STEPS, cost
    _, undisturbed = train(tmp_path / "undisturbed", prepared, settings, lambda *_: [])
    assert losses(disturbed) == losses(undisturbed)
