"""Which scores of a folder a table shows: those of the run, of the tasks, and of one set of settings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from xkd.config.overrides import to_dict
from xkd.errors import UserError
from xkd.evaluation.features import published_hash
from xkd.evaluation.score import INPUTS, Score, TaskKey, run_settings
from xkd.rundir import ROLES, RunDir

_OF_DATASET = ("data_revision",)
_OF_COLUMN = ("preparation", "windows", "seed", "finetune")

Uniform = dict[tuple[str, ...], dict[str, Any]]
"""Fields that all scores of a dataset, or of a modality and a protocol of it, have in common."""
Tasks = Mapping[TaskKey, Mapping[str, Any]]
"""Tasks with the fields that the score of each must have."""


class Selection(NamedTuple):
    """The scores of a folder that a table shows, and why it leaves out the others."""

    scores: list[Score]
    """Sorted by name."""
    left_out: dict[str, str]
    """By file name."""


def select_scores(folder: Path, run: RunDir, uniform: Uniform, tasks: Tasks | None = None) -> Selection:
    """Choose the scores that are of this run, and comparable.

    A score must be of the run's weights and settings. If there are tasks, it must be of one of them and have
    its fields. All scores of a dataset must be of one revision, and all of a modality and a protocol of it
    must have the same preparation, windows, seed and settings of fine-tuning: those of the newest one.

    Args:
        folder: it may hold scores of other runs and tasks.
        run: the run. Of a random encoder its settings are compared, not its weights, of which the last bits
            depend on the processor.
        uniform: what earlier runs of a comparison have in common, which then decides; this run's is added.
        tasks: those to show (`xkd.evaluation.plan.read_tasks`); None: any.
    """
    scores, left_out = _read(folder)
    expected = _Expected(run, tasks)
    for score in scores:
        if reason := expected.differences(score):
            left_out[f"{score.name}.json"] = reason
    kept = [score for score in scores if f"{score.name}.json" not in left_out]
    for score in sorted(kept, key=lambda score: (score.date, score.name), reverse=True):
        dataset = (score.dataset,)
        for place, fields in (
            (dataset, _OF_DATASET),
            ((*dataset, score.modality, score.protocol), _OF_COLUMN),
        ):
            values = {name: to_dict(score)[name] for name in fields}
            if changed := score.differences(uniform.setdefault(place, values)):
                left_out[f"{score.name}.json"] = (
                    f"{changed}, which the other scores of {' '.join(place)} have"
                )
                break
    return Selection([score for score in kept if f"{score.name}.json" not in left_out], left_out)


def _read(folder: Path) -> Selection:
    """Read every score in a folder; leave out what is not one."""
    scores, left_out = [], {}
    for path in sorted(folder.glob("*.json")):
        try:
            score = Score.read(path)
        except UserError as error:
            left_out[path.name] = f"{error}; evaluate the task again"
            continue
        if score.name == path.stem:
            scores.append(score)
        else:
            left_out[path.name] = f"it is a score of {score.name}"
    return Selection(scores, left_out)


class _Expected:
    """What a run, and the tasks if there are any, decide of a score."""

    def __init__(self, run: RunDir, tasks: Tasks | None) -> None:
        self._run, self._config, self._tasks = run, run.config(), tasks
        self._hash = cache(partial(published_hash, run.path))

    def differences(self, score: Score) -> str:
        """Return in what a score is not as expected."""
        if not self._run.encoders.is_dir():
            return "the run has no encoders"
        if self._tasks is not None and score.key not in self._tasks:
            return "not among the tasks"
        inputs = INPUTS[score.modality]
        values: dict[str, Any] = {"settings": run_settings(self._config, score.encoder, inputs)}
        if score.encoder in ROLES:
            try:
                values["encoder_hash"] = "+".join(self._hash(score.encoder, m) for m in inputs)
            except UserError as error:
                return str(error)
        if self._tasks is not None:
            values |= self._tasks[score.key]
        return score.differences(values)
