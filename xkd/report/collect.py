"""The content of a report: what is read of the runs, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xkd.report.aggregate import Group, aggregate, group_runs
from xkd.report.load import EvaluatedRun, Samples, check_distinct, load_samples, read_run
from xkd.report.select import Tasks, Uniform
from xkd.report.tables import Comparison, DatasetTable
from xkd.rundir import Row


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows."""

    run: EvaluatedRun
    history: list[Row]
    samples: dict[str, Samples]
    """Sample clips with their reconstructions and attention, by modality."""
    tables: list[DatasetTable]
    """Empty if evaluation was skipped."""
    comparison: Comparison
    """The run, and those it is compared with."""

    @property
    def left_out(self) -> dict[str, str]:
        """Why files of scores are not shown, by path."""
        runs = self.comparison.runs
        return {str(run.scores_dir / name): why for run in runs for name, why in run.left_out.items()}


def collect(run: Path, scores: Path, compare: Sequence[Path] = (), tasks: Tasks | None = None) -> ReportData:
    """Read a run with its scores, and those to compare, and compute their tables.

    Args:
        tasks: those to show; None: all that have a score in the folder.

    Raises:
        UserError: there is no run; the directory of scores is missing though the run ended well; or a run is
            given twice.
    """
    uniform: Uniform = {}
    main = read_run(run, scores, uniform, tasks)
    runs = [main, *(read_run(other, other / "scores", uniform) for other in compare)]
    check_distinct(runs)
    groups = group_runs(runs)
    keys = [score.key for score in main.scores] + [*main.failures, *(tasks or ())]
    datasets = sorted({key.dataset for key in keys}) or [str(main.info.get("dataset", "unknown"))]
    if main.skipped_evaluation:
        datasets = []
    own = aggregate([Group(main.dir.name, (main,))], datasets)
    compared = aggregate(groups, sorted({score.dataset for run in runs for score in run.scores}))
    return ReportData(
        main,
        main.dir.metrics(),
        load_samples(main.dir.samples_file),
        [DatasetTable(dataset, own) for dataset in datasets],
        Comparison(groups, compared),
    )
