"""What several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.prepared import prepared as prepared

os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the numbers the authors' code produced; it lies beside the checkout, not in it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("the recorded reference numbers (../shared/reference) are not beside this checkout")
    return folder
