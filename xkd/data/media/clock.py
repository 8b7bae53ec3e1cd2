"""The clock of a clip: integers, so that times neither tie by rounding nor drift."""

from __future__ import annotations

from fractions import Fraction

SECOND = 705_600_000
"""Ticks per second: whole numbers of them make up a frame or a sample at any usual rate, also 24000/1001."""


def to_ticks(count: int, unit: Fraction) -> int:
    """Return `count` units, each a number of seconds, in ticks, rounded."""
    return (2 * count * unit.numerator * SECOND + unit.denominator) // (2 * unit.denominator)


def to_count(ticks: int, rate: int) -> int:
    """Return the number of samples or other ticks at `rate` per second, rounded."""
    return (2 * ticks * rate + SECOND) // (2 * SECOND)
