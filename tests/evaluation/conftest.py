"""A run directory as pretraining leaves it, without the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.synthetic import write_run
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_config())
