"""Types that several settings share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")
Precision = Literal["auto", "fp32", "fp16", "bf16"]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Generators are seeded with 64 bits, which also count the steps."""
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""A string that may be empty; null, as YAML reads a value left out, is the same."""

Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def other(modality: Modality) -> Modality:
    """Return the other modality: the one whose teacher distills into this one's student."""
    return "audio" if modality == "video" else "video"


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"expected the lower bound first, got {bounds}")
    return bounds


Share = Annotated[float, Field(gt=0, le=1)]
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_check_order)]
"""Lowest and highest share of a whole."""
ScaleRange = Annotated[
    tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(_check_order)
]
"""Lowest and highest size relative to the original."""
