"""Reading a run and its scores, before anything is computed or formatted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xkd.config import PretrainConfig
from xkd.config.overrides import difference, to_dict
from xkd.config.presets import PRESETS, get_preset
from xkd.errors import UserError
from xkd.evaluation.score import Score, TaskKey, read_failures
from xkd.lock import is_in_use
from xkd.monitor.collapse import CollapseThresholds, judge
from xkd.report.select import Tasks, Uniform, select_scores
from xkd.rundir import ROLES, RunDir, Verdict

Samples = dict[str, Tensor]
"""One modality's part of what `xkd.train.visualize.save_samples` writes."""

State = Literal["finished", "running", "interrupted", "imported"]
"""Finished: the run has ended, with whatever verdict. Interrupted: no process trains it; it can be resumed.
Imported: its encoders were trained elsewhere."""


class Change(NamedTuple):
    """A setting that differs between a run and its preset."""

    name: str
    preset: Any
    run: Any


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run with the scores that are available."""

    dir: RunDir
    config: PretrainConfig
    info: dict[str, Any]
    """Content of ``run.json``."""
    verdict: Verdict
    """Of a run that has not finished: the one on its newest rows, of which an imported one has none."""
    scores: list[Score]
    failures: dict[TaskKey, str]
    """Why tasks have no score."""
    left_out: dict[str, str]
    """Why files in `scores_dir` are not among `scores`."""
    scores_dir: Path
    state: State = "finished"

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self.state == "finished"

    @property
    def skipped_evaluation(self) -> bool:
        """Whether there are no scores because the run collapsed, has not ended, or was imported."""
        return not self.scores and (self.verdict.failed or not self.finished)

    @property
    def thresholds(self) -> CollapseThresholds:
        """The limits that its metrics are compared with."""
        return CollapseThresholds.of_run(self.config, self.info)

    @property
    def pretrained_on(self) -> tuple[str, str]:
        """Name and abbreviated revision of the training data."""
        return str(self.info.get("dataset", "unknown")), str(self.info.get("data_revision", "unknown"))[:12]

    @property
    def verdict_title(self) -> str:
        """The verdict, hyphenated for display."""
        return self.verdict.verdict.replace("_", "-")

    @property
    def changes(self) -> list[Change] | None:
        """Settings that differ from the preset, without ``run.*``; None if the preset is unknown.

        Settings under ``run`` do not change results, except for the seed, which a report shows separately.
        """
        if self.config.preset not in PRESETS:
            return None
        preset = get_preset(self.config.preset)
        values: tuple[Any, Any] = to_dict(preset), to_dict(self.config)
        return [
            Change(name, *(reduce(getitem, name.split("."), each) for each in values))
            for name in difference(preset, self.config)
            if not name.startswith("run.")
        ]


def read_run(
    path: Path, scores_dir: Path, uniform: Uniform | None = None, tasks: Tasks | None = None
) -> EvaluatedRun:
    """Read a run and its scores.

    Args:
        uniform, tasks: see `select_scores`; without tasks, every score in the folder may be shown.

    Raises:
        UserError: there is no run; or a directory of scores other than the run's own is missing though the
            run ended well.
    """
    run = RunDir(path)
    config, info = run.config(), run.info()
    state: State = "finished"
    if run.ended:
        verdict = run.verdict()
    else:
        verdict = judge(run.metrics(), CollapseThresholds.of_run(config, info))
        state = "imported" if run.imported else "running" if is_in_use(path) else "interrupted"
    # The run's own directory comes into being with its first score; another that is missing is a mistake.
    own = scores_dir.resolve() == run.scores.resolve()
    if not scores_dir.is_dir() and not verdict.failed and state == "finished" and not own:
        raise UserError(f"{scores_dir} does not exist; run xkd evaluate first")
    scores, left_out = select_scores(scores_dir, run, {} if uniform is None else uniform, tasks)
    failures = {
        key: reason for key, reason in read_failures(scores_dir, run).items() if tasks is None or key in tasks
    }
    return EvaluatedRun(run, config, info, verdict, scores, failures, left_out, scores_dir, state)


def load_samples(path: Path) -> dict[str, Samples]:
    """Load a run's sample clips by modality; empty if there are none, or in an older format."""
    if not path.is_file():
        return {}
    samples: dict[str, Samples] = torch.load(path, weights_only=True)
    return {modality: tensors for modality, tensors in samples.items() if "hidden" in tensors}


def check_distinct(runs: Sequence[EvaluatedRun]) -> None:
    """Check that no run is given twice, so that a mean would count it twice.

    Raises:
        UserError: a directory is given twice, or two contain the same weights.
    """
    places = [run.dir.path.resolve() for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"{place} is given twice; give it only once")
    owners: dict[tuple[str, str], EvaluatedRun] = {}
    for run, score in [(each, score) for each in runs for score in each.scores]:
        owner = owners.setdefault((score.name, score.encoder_hash), run)
        if score.encoder in ROLES and owner is not run:
            raise UserError(
                f"{owner.dir.path} and {run.dir.path} contain the same weights; give only one of them"
            )
