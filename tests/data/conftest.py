from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor


@pytest.fixture(scope="session")
def recorded(reference: Path) -> dict[str, Tensor]:
    """The authors' audio front end and image transforms, with every random draw fixed."""
    return load_file(reference / "data.safetensors")
