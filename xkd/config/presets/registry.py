"""The tables of presets, and the configurations built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from xkd.config.overrides import Settings, build, load_file, load_yaml, overlay, resolve, to_dict
from xkd.config.presets.paper_results import paper_results
from xkd.config.presets.scale import SCALES, rescale, split_scale
from xkd.config.pretrain import PretrainConfig
from xkd.errors import UserError, nearest


class Top1(NamedTuple):
    """Top-1 of a linear SVM in percent; None where the paper has no result."""

    hmdb51: float | None
    ucf101: float | None
    esc50: float | None


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named configuration: settings laid over a base."""

    name: str
    summary: str
    """What it is or changes, in one line."""
    source: str = ""
    """Table, figure or section of the paper; empty for a preset that is not in it."""
    base: str = ""
    """Another preset of the same table; empty: the defaults."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings that differ from the base, as a configuration file has them."""
    prepare: Mapping[str, Any] = field(default_factory=dict)
    """The settings of ``xkd prepare`` that differ from the base's (`PrepareConfig`)."""

    @property
    def paper(self) -> Top1:
        """The first result of the paper per dataset: the teacher on split 1, or VideoMAE on all splits."""
        first: dict[str, float] = {}
        for result in paper_results():
            if result.preset == self.name:
                first.setdefault(result.dataset, result.percent)
        return Top1(*(first.get(name) for name in Top1._fields))


def read_table(*names: str) -> dict[str, Preset]:
    """Read the presets of this package's YAML files, in their order."""
    folder = Path(__file__).parent
    entries = [entry for name in names for entry in load_yaml(folder / name).items()]
    return {name: Preset(name=name, **values) for name, values in entries}


def build_preset(table: Mapping[str, Preset], name: str, defaults: Settings) -> Settings:
    """Return the settings of a preset, validated.

    Raises:
        UserError: the table has an unknown or invalid setting; the line names the preset and the field.
    """
    preset = table[name]
    base = build_preset(table, preset.base, defaults) if preset.base else defaults
    return overlay(base, preset.settings, f"preset {name}")


_SMALL = read_table("small.yaml")
PRESETS = read_table("published.yaml", "ablations.yaml") | _SMALL
"""The presets of pretraining by name."""


def get_preset(name: str) -> PretrainConfig:
    """Return the configuration of a pretraining preset, such as ``ablation`` or ``ablation@small``.

    Raises:
        UserError: the name is unknown, and the nearest names are suggested; or the preset does not exist at
            the scale, because a setting would be impossible.
    """
    preset, scale = _check_name(name)
    config = build_preset(PRESETS, preset, PretrainConfig())
    if scale != "paper":
        scaled_paper = build_preset(PRESETS, SCALES[scale], PretrainConfig())
        values = rescale(to_dict(config), to_dict(PretrainConfig()), to_dict(scaled_paper))
        config = build(PretrainConfig, values, f"preset {name}")
    return replace(config, preset=preset if scale == "paper" else name)


def get_prepare_settings(name: str) -> dict[str, Any]:
    """Return the settings of ``xkd prepare`` that a pretraining preset implies; others have their defaults.

    Raises:
        UserError: the name is unknown; the nearest names are suggested.
    """
    unscaled, scale = _check_name(name)
    preset = PRESETS[unscaled if scale == "paper" else SCALES[scale]]
    return {**(get_prepare_settings(preset.base) if preset.base else {}), **preset.prepare}


def _check_name(name: str) -> tuple[str, str]:
    """Return the preset and the scale in a name.

    Raises:
        UserError: one of them is unknown, or the preset is not one that is scaled.
    """
    preset, scale = split_scale(str(name))
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}{nearest(preset, PRESETS)}; see xkd presets")
    if scale not in SCALES:
        raise UserError(
            f"preset {name}: unknown scale {scale!r}{nearest(scale, SCALES)}; known: {', '.join(SCALES)}"
        )
    if scale != "paper" and preset in _SMALL:
        raise UserError(
            f"preset {name}: {preset} is a small one; only presets of the paper's size have scales"
        )
    return preset, scale


def resolve_pretrain(
    preset: str | None = None, file: str | None = None, overrides: Sequence[str] = ()
) -> PretrainConfig:
    """Return the settings of a pretraining: preset < file < overrides.

    Args:
        preset: its name; None: the one that the file names as ``preset``, else ``paper``.
        file: as of `resolve`.
        overrides: as of `resolve`.

    Raises:
        UserError: the preset, a setting or a value is unknown or invalid.
    """
    if preset is None:
        preset = (load_file(file).get("preset") if file else None) or "paper"
    config = resolve(get_preset(preset), file, overrides, preset=preset)
    if config.preset != preset:
        raise UserError(f"preset={config.preset}: settings cannot change the preset; use --preset")
    return config
