"""Training across hosts: network namespaces of this machine, real agents, real faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import (
    CHECKPOINT_STEPS,
    Recovery,
    disturbed_run,
    elastic_hosts,
    fixed_hosts,
    with_epochs,
)
from benchmarks.hosts import Hosts, can_create_hosts
from tests.tiny import tiny_config
from xkd.config.overrides import to_dict
from xkd.rundir import RunDir

pytestmark = pytest.mark.skipif(
    not can_create_hosts(), reason="network namespaces need root, its capabilities and ip (iproute2)"
)
LOSSES = ("loss", "reconstruct_video", "reconstruct_audio", "kd_video_to_audio", "kd_audio_to_video")


def test_hosts_that_cannot_all_be_created_leave_nothing(tmp_path: Path) -> None:
    hosts = Hosts(2, tmp_path)
    subprocess.run(["ip", "netns", "add", f"{hosts.prefix}h1"], check=True)
    try:
        with pytest.raises(subprocess.CalledProcessError), hosts:
            pass
        left = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout.split()
        assert [name for name in left if name.startswith(hosts.prefix)] == [f"{hosts.prefix}h1"]
    finally:
        subprocess.run(["ip", "netns", "del", f"{hosts.prefix}h1"], check=True)


def losses(run: RunDir) -> list[tuple[float, ...]]:
    return [tuple(row[name] for name in LOSSES) for row in run.metrics()]


def test_two_hosts_train_as_two_processes_of_one_host(prepared: Path, tmp_path: Path) -> None:
    config, alone = with_epochs(tiny_config(), 4), tmp_path / "alone"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    work = ["--settings", json.dumps(to_dict(config)), "--data", str(prepared), "--out", str(alone)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, "-m", "xkd.train.pretrain", *work], check=True, env=environment)
    with disturbed_run(tmp_path / "hosts", prepared, config, nodes="2:2") as run:
        run.wait_for_end(hosts=2)
        assert losses(run.dir) == losses(RunDir(alone))


def check(costs: list[Recovery]) -> None:
    for cost in costs:
        assert cost.seconds < 60, cost
        assert 0 <= cost.repeated <= CHECKPOINT_STEPS, cost
        if "SIGTERM" in cost.fault or "replaced" in cost.fault:
            assert cost.repeated == 0, cost


def test_a_run_on_two_hosts_recovers_from_faults_of_one(prepared: Path, tmp_path: Path) -> None:
    costs, verdict = fixed_hosts(tmp_path / "hosts", prepared, tiny_config())
    check(costs)
    assert {cost.hosts for cost in costs} == {2}
    assert not verdict.failed


@pytest.mark.slow
def test_one_host_continues_alone_and_accepts_the_other_again(prepared: Path, tmp_path: Path) -> None:
    costs, verdict = elastic_hosts(tmp_path / "hosts", prepared, tiny_config())
    check(costs)
    assert [cost.hosts for cost in costs] == [1, 2, 1]
    assert not verdict.failed
