"""The preparation that a preset of pretraining implies, and the folder that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xkd.config.overrides import overlay, resolve
from xkd.config.presets import get_prepare_settings
from xkd.data.shards.prepare import PrepareConfig

ADD_SETTING = 'add "{}" to prepare_settings'
"""What to do in a pipeline about a preparation that does not suffice (`check_preparation`)."""


def resolve_prepare(
    preset: str | None = None, file: str | None = None, overrides: Sequence[str] = (), **options: Any
) -> PrepareConfig:
    """Return the settings of a preparation: preset < file < options < overrides.

    Args:
        preset: a preset of pretraining; None: the defaults.
        file, overrides, options: as of `xkd.config.overrides.resolve`.

    Raises:
        UserError: the preset, a setting or a value is unknown or invalid.
    """
    implied = get_prepare_settings(preset) if preset is not None else {}
    return resolve(overlay(PrepareConfig(), implied, f"preset {preset}"), file, overrides, **options)


def prepared_folder(source: Path, config: PrepareConfig) -> Path:
    """Return where pipelines prepare the dataset at `source`: next to it, in a folder for these settings.

    Its name has the settings that differ from the defaults, of those that determine what is written, such as
    ``embedded-prepared-short_side-64-max_fps-8``.
    """
    defaults = PrepareConfig().settings(own=True)
    changed = {name: value for name, value in config.settings(own=True).items() if value != defaults[name]}
    suffix = "".join(f"-{name}-{value}".removesuffix(".0") for name, value in changed.items())
    return source.with_name(f"{source.name}-prepared{suffix}")
