"""The rows and columns of a table at a scale, and the evaluations that fill it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xkd.ablation.plan import run_name, run_preset, scaled, snapshot_epochs
from xkd.ablation.tables import Column, Table
from xkd.config.presets import PRESETS, get_preset
from xkd.config.presets.paper_results import paper_results
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.evaluation.plan import make_task
from xkd.evaluation.score import EvaluatedEncoder, Task
from xkd.evaluation.specs import find_eval_spec
from xkd.rundir import Role, RunDir


@dataclass(frozen=True, kw_only=True)
class Row:
    """An encoder of a preset's runs, after all epochs or at a snapshot."""

    preset: str
    column_role: EvaluatedEncoder
    """The encoder that the table reports: rows are compared with the default's of the same."""
    role: EvaluatedEncoder
    """The encoder in its place: the student of a run without teachers."""
    epoch: int | None = None
    """Of the snapshot, at the scale; None: the end of the run."""

    def directory(self, runs: Path, scale: str, seed: int) -> RunDir:
        """Return the run that has the encoder, among the folders of runs."""
        run = RunDir(runs / run_name(run_preset(self.preset, scale), seed))
        return run if self.epoch is None else run.snapshot(self.epoch)

    @property
    def title(self) -> str:
        """The preset in words."""
        return "Random initialization" if self.role == "random" else PRESETS[self.preset].summary


@dataclass(frozen=True, kw_only=True)
class MeasuredColumn:
    """An evaluation at a scale, and those of the paper that it stands for."""

    measured: Column
    paper: tuple[Column, ...]


def rows(table: Table, scale: str, settings: Sequence[str]) -> list[Row]:
    """Return a table's rows, without presets that do not exist at the scale.

    `settings` are applied to every preset. On a small dataset the last row is the default's encoder, randomly
    initialized: what a run has to exceed.
    """
    found = []
    for preset in table.presets:
        try:
            config = get_preset(scaled(preset, scale))
        except UserError:
            continue
        roles: dict[Role, Role] = {
            role: role if len(config.modalities) > 1 else "student" for role in table.encoders
        }
        for epoch in (*snapshot_epochs(table, scale, settings), None):
            found += [
                Row(preset=preset, column_role=asked, role=role, epoch=epoch) for asked, role in roles.items()
            ]
    if scale != "paper":
        found.append(Row(preset=table.default, column_role="random", role="random"))
    return found


def reference(row: Row, table: Table) -> Row | None:
    """Return the row that another one is compared with; None for the first of all.

    It is the default's of the same encoder; of the default's other encoders, its first one.
    """
    end = Row(preset=table.default, column_role=row.column_role, role=row.column_role)
    if row != end:
        return end
    first = table.encoders[0]
    return None if row.role == first else Row(preset=table.default, column_role=first, role=first)


def columns(table: Table, scale: str, dataset: str) -> list[MeasuredColumn]:
    """Return a table's columns: the paper's at its own scale, else one per modality on a small dataset."""
    if scale == "paper":
        return [MeasuredColumn(measured=column, paper=(column,)) for column in table.columns]
    modalities = dict.fromkeys(column.modality for column in table.columns)
    return [
        MeasuredColumn(
            measured=Column(dataset=dataset, modality=modality, protocol="svm", split="all"),
            paper=tuple(column for column in table.columns if column.modality == modality),
        )
        for modality in modalities
    ]


def tasks(
    row: Row, column: Column, datasets: Mapping[str, PreparedDataset], seed: int
) -> list[tuple[PreparedDataset, Task]]:
    """Return the evaluations whose mean fills a cell.

    Args:
        seed: of the run; a random initialization has the same.

    Raises:
        UserError: the dataset is not there, or has no such evaluation.
    """
    if (dataset := datasets.get(column.dataset)) is None:
        raise UserError(f"no prepared dataset {column.dataset} was given")
    spec = find_eval_spec(dataset, column.modality, column.protocol)
    folds = range(1, 2 if column.split == "1" else spec.folds + 1)
    settings = {"seed": seed} if row.role == "random" else {}
    return [
        (dataset, make_task(column.dataset, column.modality, column.protocol, row.role, fold, settings))
        for fold in folds
    ]


def check_columns(tables: Sequence[Table], scale: str, datasets: Mapping[str, PreparedDataset]) -> None:
    """Check that something of every table can be evaluated on the datasets.

    Raises:
        UserError: it cannot, or a small scale has several datasets.
    """
    if scale != "paper" and len(datasets) > 1:
        raise UserError(f"scale {scale} is evaluated on one dataset, not on {', '.join(datasets)}")
    for table in tables:
        row, *_ = rows(table, scale, ())
        shown, reasons = columns(table, scale, next(iter(datasets))), list[str]()
        for column in shown:
            try:
                tasks(row, column.measured, datasets, 0)
            except UserError as error:
                reasons.append(str(error))
        if len(reasons) == len(shown):
            raise UserError(f"{table.label} cannot be evaluated: {reasons[0]}")


def paper_percent(preset: str, role: EvaluatedEncoder, column: Column) -> float | None:
    """Return the paper's number; None if it gives none."""
    wanted = (preset, role, column.dataset, column.modality, column.protocol, column.split)
    for result in paper_results():
        found = (
            result.preset,
            result.encoder,
            result.dataset,
            result.modality,
            result.protocol,
            result.split,
        )
        if found == wanted:
            return result.percent
    return None
