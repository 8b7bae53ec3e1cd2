"""Clusters for launchers: a fake API server, or a real one (`pytest -m apiserver`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.apiserver import ApiServer, RealCluster
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.launching import QUICK, Command
from tests.kubernetes.server import FakeCluster
from xkd.launch.kubernetes import client, follow


def _offer(cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it the cluster of the kubeconfig, which launchers in this process poll often."""
    monkeypatch.setattr(client, "POLL_POLICY", QUICK)
    monkeypatch.setattr(follow, "_FLUSH_SECONDS", 0.5)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(folder)))
    monkeypatch.chdir(folder)  # where there is no run of the user's, as runs/mine


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """The fake cluster; no job may be left on it."""
    with FakeCluster() as cluster:
        _offer(cluster, tmp_path, monkeypatch)
        yield cluster
        assert cluster.left() == []


@pytest.fixture
def real(apiserver: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCluster]:
    """The real cluster; no job may be left on it."""
    with RealCluster(apiserver) as cluster:
        _offer(cluster, tmp_path, monkeypatch)
        yield cluster
        assert cluster.left() == []


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.apiserver)])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """The cluster of the kubeconfig."""
    cluster: Cluster = request.getfixturevalue(request.param)
    return cluster


@pytest.fixture
def command(cluster: Cluster) -> Iterator[Callable[..., Command]]:
    """Start launchers as processes; end those that are left."""
    commands: list[Command] = []

    def start(*arguments: Any, **options: Any) -> Command:
        commands.append(Command(cluster, *arguments, **options))
        return commands[-1]

    yield start
    for each in commands:
        each.process.kill()
