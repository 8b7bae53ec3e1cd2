"""Forty real clips, generated and prepared once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from xkd.data.fetch.fetch import fetch
from xkd.data.shards.prepare import PrepareConfig, prepare


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    fetch("embedded", folder / "source", clips=40)
    prepare(folder / "source", folder / "prepared", PrepareConfig(short_side=48, max_fps=8))
    return folder / "prepared"
