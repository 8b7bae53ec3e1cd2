"""Training across hosts: network namespaces of this machine, real agents, real faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import INTERVAL, Recovery, config, elastic, fixed, running
from tests.hosts import Hosts, may_have_hosts
from xkd.config.overrides import to_dict
from xkd.rundir import read_rows

pytestmark = pytest.mark.skipif(
    not may_have_hosts(), reason="network namespaces take root, its capabilities and ip (iproute2)"
)
LOSSES = ("loss", "reconstruct_video", "reconstruct_audio", "kd_video_to_audio", "kd_audio_to_video")


def test_hosts_that_cannot_all_be_made_leave_nothing(tmp_path: Path) -> None:
    hosts = Hosts(2, tmp_path, "nothing", [], "1:1")
    subprocess.run(["ip", "netns", "add", f"{hosts.prefix}h1"], check=True)
    try:
        with pytest.raises(subprocess.CalledProcessError), hosts:
            pass
        left = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout.split()
        assert [name for name in left if name.startswith(hosts.prefix)] == [f"{hosts.prefix}h1"]
    finally:
        subprocess.run(["ip", "netns", "del", f"{hosts.prefix}h1"], check=True)


def losses(run: Path) -> list[tuple[float, ...]]:
    return [tuple(row[name] for name in LOSSES) for row in read_rows(run / "metrics.jsonl")]


def test_two_hosts_train_as_two_processes_of_one_host(prepared: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    work = ["--settings", json.dumps(to_dict(config(epochs=4))), "--data", str(prepared), "--out", str(alone)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, "-m", "xkd.train.pretrain", *work], check=True, env=environment)
    with running(tmp_path / "hosts", prepared, epochs=4, nodes="2:2") as run:
        run.until(lambda: (run.out / "verdict.json").exists())
        assert [run.hosts.agent(number).wait(timeout=60) for number in range(2)] == [0, 0]
        assert losses(run.out) == losses(alone)


def check(costs: list[Recovery]) -> None:
    for cost in costs:
        assert cost.seconds < 60, cost
        assert 0 <= cost.lost <= INTERVAL, cost
        if "SIGTERM" in cost.fault or "back" in cost.fault:
            assert cost.lost == 0, cost


def test_two_hosts_survive_what_happens_to_one(prepared: Path, tmp_path: Path) -> None:
    costs, verdict = fixed(tmp_path / "hosts", prepared)
    check(costs)
    assert {cost.hosts for cost in costs} == {2}
    assert verdict["verdict"] == "healthy"


@pytest.mark.slow
def test_one_host_goes_on_alone_and_lets_the_other_in_again(prepared: Path, tmp_path: Path) -> None:
    costs, verdict = elastic(tmp_path / "hosts", prepared)
    check(costs)
    assert [cost.hosts for cost in costs] == [1, 2, 1]
    assert verdict["verdict"] == "healthy"
