"""Presets of the paper at another scale: ``PRESET@SCALE``, such as ``ablation@small``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCALES = {"paper": "paper", "small": "small"}
"""What preset `paper` becomes at a scale; the others follow from it."""
_COMPLEMENTS = ("mask_ratio", "ema_base", "ema_final")
"""Shares close to 1, of which the rest is scaled: the visible patches, the weight of the newest student."""
_RELATED = {"teacher_temperature_start": "teacher_temperature"}
"""Settings that preset `paper` leaves out, and those with whose factor they are scaled."""


def split_scale(name: str) -> tuple[str, str]:
    """Return a preset's name without its scale, and the scale; ``paper`` if it has none."""
    preset, _, scale = name.partition("@")
    return preset, scale or "paper"


def rescale(
    preset: Mapping[str, Any], paper: Mapping[str, Any], scaled_paper: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of a preset at the scale that turns preset `paper` into `scaled_paper`.

    A number that the scale changes in preset `paper` changes in the same proportion; integers are rounded, to
    at least 1. Settings that the scale does not change are taken as they are, and of those that it changes
    but that are no numbers, or 0 in preset `paper`, the ones that differ from it.
    """
    return {name: _rescale(name, value, paper, scaled_paper) for name, value in preset.items()}


def _rescale(
    name: str,
    value: Any,
    paper: Mapping[str, Any],
    scaled_paper: Mapping[str, Any],
) -> Any:
    if isinstance(value, dict):
        return rescale(value, paper[name], scaled_paper[name])
    related = _RELATED.get(name, name)
    before, after = paper[related], scaled_paper[related]
    if before == after:
        return value
    if name in _COMPLEMENTS:
        return round(1 - _in_proportion(1 - value, 1 - before, 1 - after), 9)
    if isinstance(value, list) and len(value) == len(before) == len(after):
        return [_in_proportion(*numbers) for numbers in zip(value, before, after, strict=True)]
    return _in_proportion(value, before, after)


def _in_proportion(value: Any, before: Any, after: Any) -> Any:
    """Return `value` changed as much as `before` is changed into `after`."""
    numbers = all(type(number) in (int, float) for number in (value, before, after))
    if value == before or not numbers or not before:
        return after if value == before else value
    scaled = value * after / before
    return max(1, round(scaled)) if isinstance(value, int) else round(scaled, 9)
