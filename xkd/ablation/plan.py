"""The runs of tables at a scale: one for every distinct configuration and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from xkd.ablation.tables import Table, all_tables
from xkd.config import PretrainConfig
from xkd.config.overrides import to_dict
from xkd.config.presets import get_preset, resolve_pretrain
from xkd.config.presets.scale import SCALES
from xkd.errors import UserError, nearest, prefixed
from xkd.io import short_hash

FULL = "paper"
"""Preset whose epochs those of snapshots refer to."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A pretraining run that tables need."""

    preset: str
    """Without the scale."""
    overrides: tuple[str, ...]
    """Of the preset at the scale, each ``dotted.name=value``."""
    config: PretrainConfig

    @property
    def name(self) -> str:
        """Name of its directory."""
        return run_name(self.preset, self.config.run.seed)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs of tables, and why presets have none."""

    runs: tuple[PlannedRun, ...]
    impossible: dict[str, str]
    """Why a preset does not exist at the scale."""


def check_scale(scale: str) -> None:
    """Check the name of a scale.

    Raises:
        UserError: it is unknown.
    """
    if scale not in SCALES:
        raise UserError(f"unknown scale {scale!r}{nearest(scale, SCALES)}; known: {', '.join(SCALES)}")


def plan_runs(tables: Sequence[Table], scale: str, seeds: int, settings: Sequence[str] = ()) -> Plan:
    """Return the runs of tables, each once, with seeds from 0 and `settings` applied to every preset.

    Presets whose settings are equal at the scale share their runs, which have the name of the first of them,
    whichever tables are asked for.

    Raises:
        UserError: the scale or a setting is unknown or invalid, or `seeds` is not positive.
    """
    check_scale(scale)
    if seeds < 1:
        raise UserError(f"seeds must be at least 1, not {seeds}")
    for name in settings_by_name(settings).keys() & {"run.seed", "run.snapshots"}:
        raise UserError(f"{name} cannot be set: each run of a table has its own")
    names, impossible = dict[str, None](), dict[str, str]()
    for preset in dict.fromkeys(preset for table in tables for preset in table.presets):
        try:
            names[run_preset(preset, scale)] = None
        except UserError as error:
            impossible[preset] = str(error)
    runs = [_plan_run(preset, scale, seed, settings) for seed in range(seeds) for preset in names]
    return Plan(runs=tuple(runs), impossible=impossible)


def settings_by_name(settings: Sequence[str]) -> dict[str, str]:
    """Return settings, each ``dotted.name=value``, by their names; of one given twice the last."""
    return {name: value for name, _, value in (setting.partition("=") for setting in settings)}


def list_runs(
    tables: Sequence[Table], scale: str, seeds: int, settings: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the names of the runs of `plan_runs`, each with the names of the tables that need it."""
    found: dict[str, tuple[str, ...]] = {}
    for table in tables:
        for run in plan_runs([table], scale, seeds, settings).runs:
            found[run.name] = (*found.get(run.name, ()), table.name)
    return found


@cache
def run_preset(preset: str, scale: str) -> str:
    """Return the preset whose runs a preset has at a scale: the first with the same settings.

    Raises:
        UserError: the preset does not exist at the scale.
    """
    wanted = _settings_hash(preset, scale)
    for table in all_tables().values():
        for other in table.presets:
            if other == preset or _exists_alike(other, scale, wanted):
                return other
    return preset


def _exists_alike(preset: str, scale: str, wanted: str) -> bool:
    try:
        return _settings_hash(preset, scale) == wanted
    except UserError:
        return False


@cache
def _settings_hash(preset: str, scale: str) -> str:
    """Return a hash of the settings that determine a run, except for the seed."""
    values = to_dict(get_preset(scaled(preset, scale)))
    del values["preset"], values["run"]
    return short_hash(json.dumps(values, sort_keys=True))


def scaled(preset: str, scale: str) -> str:
    """Return the name of a preset at a scale."""
    return preset if scale == "paper" else f"{preset}@{scale}"


def run_name(preset: str, seed: int) -> str:
    """Return the name of the directory of a run, by the preset of `run_preset`."""
    return f"{preset}-seed{seed}"


def _plan_run(preset: str, scale: str, seed: int, settings: Sequence[str]) -> PlannedRun:
    # Whichever table comes first: a run that is trained without its snapshots has none.
    needed = [table for table in all_tables().values() if preset in table.presets]
    epochs = {epoch for table in needed for epoch in snapshot_epochs(table, scale, settings)}
    overrides = (*settings, f"run.seed={seed}", f"run.snapshots={sorted(epochs)}")
    config = _resolve(preset, scale, overrides)
    return PlannedRun(preset=preset, overrides=overrides, config=config)


def _resolve(preset: str, scale: str, settings: Sequence[str]) -> PretrainConfig:
    name = scaled(preset, scale)
    with prefixed(f"{name}: "):
        return resolve_pretrain(name, None, settings)


def snapshot_epochs(table: Table, scale: str, settings: Sequence[str]) -> list[int]:
    """Return the epochs of a table's snapshots at a scale, with settings applied to its preset."""
    if not table.snapshots:
        return []
    epochs, full = total_epochs(table, scale, settings), get_preset(FULL).optim.epochs
    found = {max(1, round(epoch * epochs / full)) for epoch in table.snapshots}
    return sorted(found - {epochs})


def total_epochs(table: Table, scale: str, settings: Sequence[str]) -> int:
    """Return the epochs of a table's default at a scale, with settings applied to it."""
    return _resolve(table.default, scale, settings).optim.epochs
