"""Train and evaluate the runs of tables on this machine, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from xkd.ablation.grid import columns, rows, tasks
from xkd.ablation.page import write_results
from xkd.ablation.plan import PlannedRun, plan_runs, run_preset
from xkd.ablation.result import RUNS, find_score
from xkd.ablation.settings import AblateConfig
from xkd.ablation.tables import Table, find_tables
from xkd.data.datasets.training import TrainingClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import CollapsedError, TrainingError, UserError, nearest, prefixed
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
            settings.
    """
    config.check()
    tables = find_tables(config.tables)
    runs = _choose(plan_runs(tables, config.scale, config.seeds, config.settings).runs, only)
    data, out = Path(config.data), Path(config.out)
    dataset = PreparedDataset.open(data)
    evaluated = {
        each.name: each for each in (PreparedDataset.open(Path(d)) for d in config.downstream or [data])
    }
    steps = sum(_check(run, dataset, evaluated.values()) for run in runs)
    with locked_directory(out):
        claim(out, config.scale, dataset, config.settings)
        with progress("ablate", steps, done=_done(runs, out)) as bar:
            for number, run in enumerate(runs, 1):
                bar.note(f"run {number} of {len(runs)}: {run.name}")
                with _followed(RunDir(out / RUNS / run.name), bar):
                    _train(run, data, out)
                evaluate_run(run, tables, config.scale, evaluated, out)
        if only in ("", PAGE):
            write_results(tables, config.scale, config.seeds, evaluated, out)


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
    wanted = {"scale": scale, "dataset": dataset.name, **dataset.identity, "settings": sorted(settings)}
    found = find_json(out / STATE)
    if found is None:
        write_json(out / STATE, wanted)
    elif found != wanted:
        name = next(name for name in wanted if found.get(name) != wanted[name])
        raise UserError(f"{out} has runs of {name} {found.get(name)}, not {wanted[name]}; use another --out")


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


def _train(run: PlannedRun, data: Path, out: Path) -> None:
    """Train a run, or resume it, unless it has ended.

    Raises:
        UserError, TrainingError: training failed, other than by a collapse.
    """
    directory = RunDir(out / RUNS / run.name)
    if directory.ended and directory.config() == run.config:
        return
    try:
        launch(run.config, data, directory.path, log=out / "logs" / f"{run.name}.log")
    except CollapsedError as error:
        _LOG.info("%s: %s", run.name, error)
    except (UserError, TrainingError) as error:
        raise type(error)(f"{run.name}: {error}") from None


def evaluate_run(
    run: PlannedRun, tables: Sequence[Table], scale: str, datasets: Mapping[str, PreparedDataset], out: Path
) -> None:
    """Do the evaluations of a run that tables need; what is impossible is left to the results to say.

    Args:
        datasets: as of `xkd.ablation.result.collect`.
        out: folder with the runs.
    """
    wanted = list[tuple[RunDir, PreparedDataset, Task]]()
    for table in tables:
        for row in rows(table, scale):
            if run_preset(row.preset, scale) != run.preset:
                continue
            directory = row.directory(out / RUNS, scale, run.config.run.seed)
            if not directory.encoders.is_dir():  # it ended before its last step
                continue
            for column in columns(table, scale, next(iter(datasets))):
                with suppress(UserError):
                    for dataset, task in tasks(row, column.measured, datasets, run.config.run.seed):
                        wanted.append((directory, dataset, task))
    for directory, dataset, task in wanted:
        if not find_score(directory, dataset, task):
            evaluate(directory.path, dataset.root, task, directory.scores, planned=True)
