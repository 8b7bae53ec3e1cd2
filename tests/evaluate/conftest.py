"""Forty real clips, prepared once for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.synthetic import write_run
from tests.tiny import tiny_config
from xkd.data.fetch import fetch
from xkd.data.prepare import PrepareConfig, prepare


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    fetch("embedded", folder / "source", clips=40)
    prepare(folder / "source", folder / "prepared", PrepareConfig(short_side=48, max_fps=8))
    return folder / "prepared"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_config())
