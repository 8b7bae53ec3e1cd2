"""The register of presets: names, places in the paper, and the paper's figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import getdoc
from typing import NamedTuple

from xkd.config import PretrainConfig
from xkd.errors import UserError, nearest

Build = Callable[[], PretrainConfig]


class Figures(NamedTuple):
    """Top-1 in percent."""

    hmdb51: float
    ucf101: float
    esc50: float | None = None


@dataclass(frozen=True)
class Preset:
    """A named configuration and what the paper says of it."""

    name: str
    source: str
    """Table, figure or section of the paper; empty for what is not in it."""
    paper: Figures | None
    """What the paper measured; None where it prints no figures, or where the run collapsed."""
    build: Build

    @property
    def summary(self) -> str:
        """What it is, or what it changes, in a line."""
        return (getdoc(self.build) or "").splitlines()[0]


PRESETS: dict[str, Preset] = {}


def preset(source: str = "", *paper: float) -> Callable[[Build], Build]:
    """Register a configuration under its function's name, with its place in the paper and its figures."""

    def register(build: Build) -> Build:
        name = build.__name__
        PRESETS[name] = Preset(name, source, Figures(*paper) if paper else None, build)
        return build

    return register


def get_preset(name: str) -> PretrainConfig:
    """The configuration of a preset.

    Raises:
        UserError: the name is unknown; the nearest names are suggested.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}{nearest(name, PRESETS)}; see xkd presets")
    return replace(PRESETS[name].build(), preset=name)
