"""The paper's results of its encoders (Tables S8 to S16), by preset and evaluation."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ALL_SPLITS = "all"
FIRST_SPLIT = "1"


@dataclass(frozen=True)
class PaperResult:
    """One result of the paper; the fields are named as those of a score."""

    preset: str
    encoder: str
    dataset: str
    modality: str
    protocol: str
    split: str
    """`FIRST_SPLIT`, or `ALL_SPLITS` for the mean over them."""
    percent: float
    """Top-1."""
    source: str
    """Table or figure of the paper."""


@cache
def paper_results() -> tuple[PaperResult, ...]:
    """Return every row of ``paper_results.csv``, in the file's order."""
    with Path(__file__).with_name("paper_results.csv").open(newline="") as file:
        return tuple(
            PaperResult(**{**row, "percent": float(row["percent"])})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        )
