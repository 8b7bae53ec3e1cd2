"""Train and evaluate the runs of tables on this machine, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from xkd.ablation.grid import check_columns, columns, rows, tasks
from xkd.ablation.page import write_results
from xkd.ablation.plan import PlannedRun, plan_runs, run_preset, settings_by_name
from xkd.ablation.result import RUNS, find_score
from xkd.ablation.settings import AblateConfig
from xkd.ablation.tables import Table, find_tables
from xkd.data.datasets.training import TrainingClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import CollapsedError, UserError, nearest, prefixed
from xkd.evaluation.evaluate import evaluate
from xkd.evaluation.score import Task
from xkd.io import find_json, write_json
from xkd.launch.launcher import launch
from xkd.lock import locked_directory
from xkd.log import get_logger
from xkd.progress import Bar, progress
from xkd.rundir import RunDir

_LOG = get_logger(__name__)
_POLL_SECONDS = 1.0
STATE = "ablations.json"
"""File of the output folder: the scale and the data of its runs."""
PAGE = "page"
"""What `ablate` may do besides a single run."""


def ablate(config: AblateConfig, only: str = "") -> None:
    """Train and evaluate all runs of tables, and write the tables; what is finished is not repeated.

    Writes to `config.out`: ``runs/PRESET-seedN``, ``logs`` with the output of training, and the results
    (`xkd.ablation.page.write_results`). A run that collapses is a result, not an error.

    Args:
        only: name of a run, to train and evaluate it without writing the tables; or `PAGE`, to write the
            tables of the runs there are.

    Raises:
        UserError: an argument is impossible, or `config.out` has runs of another scale, other data or
            settings; or evaluations failed, which is reported after the tables are written.
    """
    config.check()
    tables = find_tables(config.tables)
    planned = plan_runs(tables, config.scale, config.seeds, config.settings).runs
    runs = _choose(planned, only)
    data, out = Path(config.data), Path(config.out)
    dataset = PreparedDataset.open(data)
    if (out / STATE).is_file():
        claim(out, config.scale, dataset, config.settings)
    evaluated = by_name(map(Path, config.downstream or [config.data]))
    check_columns(tables, config.scale, evaluated)
    steps = {run.name: _check(run, dataset, evaluated.values()) for run in planned}
    failed = list[str]()
    with locked_directory(out):
        claim(out, config.scale, dataset, config.settings)
        with progress("ablate", sum(steps[run.name] for run in runs), done=_done(runs, out)) as bar:
            for number, run in enumerate(runs, 1):
                bar.note(f"run {number} of {len(runs)}: {run.name}")
                with _followed(RunDir(out / RUNS / run.name), bar):
                    _train(run, dataset, out)
                failed += evaluate_run(run, tables, config.scale, evaluated, config.settings, out)
        if only in ("", PAGE):
            write_results(tables, config.scale, config.seeds, evaluated, config.settings, out)
    raise_failed(failed)


def by_name(folders: Iterable[Path]) -> dict[str, PreparedDataset]:
    """Open prepared datasets and return them by their names.

    Raises:
        UserError: one cannot be opened, or two have the same name.
    """
    found = dict[str, PreparedDataset]()
    for dataset in map(PreparedDataset.open, folders):
        if dataset.name in found:
            raise UserError(f"{found[dataset.name].root} and {dataset.root} both hold {dataset.name}")
        found[dataset.name] = dataset
    return found


def raise_failed(failed: Sequence[str]) -> None:
    """Report evaluations that failed, as `evaluate_run` returns them.

    Raises:
        UserError: there are any.
    """
    if failed:
        raise UserError(f"evaluations that failed: {len(failed)}, the first: {failed[0]}")


def _choose(runs: Sequence[PlannedRun], only: str) -> Sequence[PlannedRun]:
    """Return the runs to train and evaluate; `only` as of `ablate`."""
    if not only:
        return runs
    names = {run.name: run for run in runs}
    if only not in (PAGE, *names):
        raise UserError(f"the tables have no run {only!r}{nearest(only, names)}; --params lists their runs")
    return [names[only]] if only != PAGE else []


def _check(run: PlannedRun, dataset: PreparedDataset, evaluated: Iterable[PreparedDataset]) -> int:
    """Check that the datasets fit a run, and return the number of its steps.

    Raises:
        UserError: a dataset does not fit its settings.
    """
    with prefixed(f"{run.name}: "):
        for each in evaluated:
            each.check(run.config, run.config.modalities)
        return TrainingClips(dataset, run.config).count_steps()[0]


def claim(out: Path, scale: str, dataset: PreparedDataset, settings: Sequence[str]) -> None:
    """Make `out` the folder of runs of a scale, a dataset and settings, or check that it is.

    Raises:
        UserError: it is one of others.
    """
    kept = sorted(f"{name}={value}" for name, value in settings_by_name(settings).items())
    wanted = {"scale": scale, "dataset": dataset.name, **dataset.identity, "settings": kept}
    found = find_json(out / STATE)
    if found is None:
        write_json(out / STATE, wanted)
        return
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(f"{out} has runs of {name} {found.get(name)}, not {value}; use another --out")


def _done(runs: Sequence[PlannedRun], out: Path) -> int:
    """Return the number of steps that are trained."""
    return sum(_newest_step(RunDir(out / RUNS / run.name)) for run in runs)


def _newest_step(run: RunDir) -> int:
    rows = run.metrics()
    return int(rows[-1]["step"]) if rows else 0


@contextmanager
def _followed(run: RunDir, bar: Bar) -> Iterator[None]:
    """Advance a bar by the steps of a run while it trains."""
    ended, last = threading.Event(), _newest_step(run)

    def follow() -> None:
        nonlocal last
        while not ended.wait(_POLL_SECONDS):
            if (step := _newest_step(run)) > last:
                bar.advance(step - last)
                last = step

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _train(run: PlannedRun, dataset: PreparedDataset, out: Path) -> None:
    """Train a run, or resume it, unless it has ended.

    Raises:
        XkdError: training failed, other than by a collapse.
    """
    directory, revision = RunDir(out / RUNS / run.name), dataset.revision
    current = directory.ended and directory.info().get("data_revision") == revision
    if current and directory.config() == run.config:
        return
    try:
        with prefixed(f"{run.name}: "):
            launch(run.config, dataset.root, directory.path, log=out / "logs" / f"{run.name}.log")
    except CollapsedError as error:
        _LOG.info("%s", error)


def evaluate_run(
    run: PlannedRun,
    tables: Sequence[Table],
    scale: str,
    datasets: Mapping[str, PreparedDataset],
    settings: Sequence[str],
    out: Path,
) -> list[str]:
    """Do the evaluations of a run that tables need; what is impossible is left to the results to say.

    Args:
        datasets, settings: as of `xkd.ablation.result.collect`.
        out: folder with the runs.

    Returns:
        What failed, and why.
    """
    wanted = list[tuple[RunDir, PreparedDataset, Task]]()
    for table in tables:
        for row in rows(table, scale, settings):
            if run_preset(row.preset, scale) != run.preset:
                continue
            directory = row.directory(out / RUNS, scale, run.config.run.seed)
            if not directory.encoders.is_dir():  # it ended before its last step
                continue
            for column in columns(table, scale, next(iter(datasets))):
                with suppress(UserError):
                    for dataset, task in tasks(row, column.measured, datasets, run.config.run.seed):
                        wanted.append((directory, dataset, task))
    failed = []
    for directory, dataset, task in wanted:
        if not find_score(directory, dataset, task):
            try:
                evaluate(directory.path, dataset.root, task, directory.scores, planned=True)
            except UserError as error:
                _LOG.warning("%s, %s: %s", run.name, task.name, error)
                failed.append(f"{run.name}, {task.name}: {error}")
    return failed
