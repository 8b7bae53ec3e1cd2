from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def recorded(reference: Path) -> dict[str, Any]:
    """The authors' audio front end and image transforms, with every random draw fixed."""
    values: dict[str, Any] = torch.load(reference / "data_reference.pt", weights_only=True)
    return values
