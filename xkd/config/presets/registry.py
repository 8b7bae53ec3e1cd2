"""The register of presets: names, places in the paper, and the paper's figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import getdoc
from typing import NamedTuple

from xkd.config import PretrainConfig
from xkd.config.presets.paper_results import paper_results
from xkd.errors import UserError, nearest

Build = Callable[[], PretrainConfig]


class Figures(NamedTuple):
    """Top-1 of a linear SVM in percent; None where the paper prints none."""

    hmdb51: float | None
    ucf101: float | None
    esc50: float | None


@dataclass(frozen=True)
class Preset:
    """A named configuration and what the paper says of it."""

    name: str
    source: str
    """Table, figure or section of the paper; empty for what is not in it."""
    build: Build

    @property
    def summary(self) -> str:
        """What it is, or what it changes, in a line."""
        return (getdoc(self.build) or "").splitlines()[0]

    @property
    def paper(self) -> Figures:
        """What the paper prints of it first: the teacher on split 1, or VideoMAE on all splits."""
        first: dict[str, float] = {}
        for number in paper_results():
            if number.preset == self.name:
                first.setdefault(number.dataset, number.percent)
        return Figures(*(first.get(name) for name in Figures._fields))


PRESETS: dict[str, Preset] = {}


def preset(source: str = "") -> Callable[[Build], Build]:
    """Register a configuration under its function's name, with its place in the paper."""

    def register(build: Build) -> Build:
        name = build.__name__
        PRESETS[name] = Preset(name, source, build)
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
