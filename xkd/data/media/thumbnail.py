"""Small pictures that travel inside a score or a page."""

from __future__ import annotations

import base64
import io
from typing import Any

from numpy.typing import NDArray

_HEIGHT = 72


def to_thumbnail(picture: NDArray[Any]) -> str:
    """Return a picture (H, W, 3), uint8, as a JPEG of at most 72 lines, in base64."""
    from PIL import Image  # slow import

    image = Image.fromarray(picture)
    image.thumbnail((3 * _HEIGHT, _HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
