"""The tasks of a pipeline that makes tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xkd.ablation.grid import check_columns
from xkd.ablation.page import write_results
from xkd.ablation.plan import FULL, plan_runs, scaled
from xkd.ablation.result import RUNS
from xkd.ablation.run import by_name, claim, evaluate_run, raise_failed
from xkd.ablation.tables import Table, find_tables
from xkd.data.shards.manifest import PreparedDataset, check_preparation
from xkd.data.shards.preparation import ADD_SETTING, resolve_prepare
from xkd.errors import UserError, prefixed
from xkd.evaluation.fan_out import find_prepared


def read_tables(text: str) -> list[Table]:
    """Return tables by their names, separated by commas or spaces.

    Raises:
        UserError: a name is unknown, or there is none.
    """
    if not (names := re.findall(r"[^,\s]+", text)):
        raise UserError("table: must not be empty; give for example table=S9 or table=all")
    return find_tables(names)


def plan_items(
    table: str, scale: str, seeds: int, settings: Sequence[str], prepare_settings: Sequence[str], out: str
) -> list[dict[str, Any]]:
    """Return the name, ``run``, of each run, and the preset, settings and directory that `pretrain` takes.

    Args:
        table: names of tables.
        settings: overrides of every run's settings.
        prepare_settings: overrides of the preparation that the scale implies.
        out: folder of the runs and the results.

    Raises:
        UserError: an argument is impossible, or a run needs another preparation.
    """
    runs = plan_runs(read_tables(table), scale, seeds, settings).runs
    prepared = resolve_prepare(scaled(FULL, scale), None, prepare_settings).settings(own=False)
    for run in runs:
        with prefixed(f"{run.name}: "):
            check_preparation(prepared, run.config, run.config.modalities, ADD_SETTING)
    return [
        {
            "run": run.name,
            "preset": scaled(run.preset, scale),
            "settings": list(run.overrides),
            "out": f"{out}/{RUNS}/{run.name}",
        }
        for run in runs
    ]


def claim_output(
    table: str, scale: str, settings: Sequence[str], data: Path, evaluated: Sequence[Path], out: Path
) -> None:
    """Make `out` the folder of runs on a prepared dataset (`claim`), if what they are evaluated on suffices.

    Raises:
        UserError: it does not, or `out` is the folder of other runs.
    """
    check_columns(read_tables(table), scale, by_name(evaluated))
    claim(out, scale, PreparedDataset.open(data), settings)


def evaluate_planned(
    name: str, table: str, scale: str, seeds: int, settings: Sequence[str], data: Sequence[str], out: Path
) -> None:
    """Do the evaluations of one run; arguments as of `plan_items`.

    Args:
        name: the run's.
        data: prepared datasets to evaluate on.

    Raises:
        UserError: one of them failed, which is reported after the others.
    """
    tables = read_tables(table)
    (run,) = (run for run in plan_runs(tables, scale, seeds, settings).runs if run.name == name)
    raise_failed(evaluate_run(run, tables, scale, by_name(map(Path, data)), settings, out))


def find_datasets(scale: str, prepare_settings: Sequence[str], data: str, names: Sequence[str]) -> list[Path]:
    """Return the folders of datasets, prepared as the presets of a scale imply; see `find_prepared`."""
    return find_prepared("", scaled(FULL, scale), prepare_settings, data, names)


def tabulate_planned(
    table: str,
    scale: str,
    seeds: int,
    settings: Sequence[str],
    data: str,
    names: Sequence[str],
    prepare_settings: Sequence[str],
    out: Path,
) -> Path:
    """Write the results and return the page; arguments as of `plan_items` and `find_datasets`."""
    folders = find_datasets(scale, prepare_settings, data, names)
    return write_results(read_tables(table), scale, seeds, by_name(folders), settings, out)
