"""The numbers that the paper prints of its encoders (Tables S8 to S16), by preset and evaluation."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ALL_SPLITS = "all"
FIRST_SPLIT = "1"


@dataclass(frozen=True)
class PaperResult:
    """A number of the paper's and what it was measured of; the words are those of a score."""

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
    """Where it is printed."""


@cache
def paper_results() -> tuple[PaperResult, ...]:
    """Every number of ``paper_results.csv``, in the file's order."""
    with Path(__file__).with_name("paper_results.csv").open(newline="") as file:
        return tuple(
            PaperResult(**{**row, "percent": float(row["percent"])})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        )
