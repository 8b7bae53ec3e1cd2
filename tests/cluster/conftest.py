"""The real API server of launchers, without the choice of a fake one."""

from __future__ import annotations

import pytest

from tests.cluster.apiserver import RealCluster
from tests.kubernetes.conftest import command as command
from tests.kubernetes.conftest import real as real


@pytest.fixture
def cluster(real: RealCluster) -> RealCluster:
    return real
