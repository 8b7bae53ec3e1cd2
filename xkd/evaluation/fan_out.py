"""The evaluations of a pipeline run: what each of its tasks evaluates, and how many a run holds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from xkd.config.overrides import read_settings
from xkd.data.shards.preparation import prepared_folder, resolve_prepare
from xkd.errors import RunInterruptedError, UserError
from xkd.evaluation.evaluate import evaluate
from xkd.evaluation.plan import choose, make_task, plan
from xkd.evaluation.protocols import PROTOCOLS
from xkd.evaluation.score import Score, Task, failure_path, parse_task_name
from xkd.evaluation.specs import find_eval_spec
from xkd.io import one_line
from xkd.log import get_logger
from xkd.rundir import RunDir

_LOG = get_logger(__name__)

TASKS = 200
"""Tasks of a pipeline run that evaluate: Argo's record must fit in 1 MiB, compressed (tests/pipelines)."""
PER_TASK = 2
"""Evaluations of a task, where there are more evaluations than tasks."""


def find_prepared(
    run: str, preset: str, prepare_settings: Sequence[str], data: str, names: Sequence[str]
) -> list[Path]:
    """Return the folders of datasets, prepared as a run's preset implies.

    Args:
        run: the run directory.
        preset: its preset; empty: as of its configuration.
        prepare_settings: overrides of the preset's preparation, each ``name=value``.
        data: directory of the datasets by their names.

    Raises:
        UserError: the preset or a setting is unknown, or a dataset has no such preparation.
    """
    preset = preset or RunDir(run).config().preset
    config, folders = resolve_prepare(preset, None, prepare_settings), []
    for source in (Path(data, name) for name in names):
        folders.append(folder := prepared_folder(source, config))
        if not folder.is_dir():
            settings = [word for setting in prepare_settings for word in ("--set", setting)]
            words = ["xkd", "prepare", str(source), "--preset", preset, *settings, "--out", str(folder)]
            raise UserError(
                f"{folder} does not exist: make it with `{shlex.join(words)}`, or give the prepare_settings "
                "that the dataset was prepared with"
            )
    return folders


def fan_out(
    run: str,
    trained: bool,
    prepared: Sequence[Path],
    encoders: Sequence[str],
    protocols: Sequence[str],
    finetune_settings: Sequence[str],
) -> list[str]:
    """Return the evaluations of a run (`xkd.evaluation.plan.plan`) as one item for each task, see `group`.

    Args:
        run: the run directory.
        trained: False, before there is a run: only check the arguments and return no items.
        prepared: folders of prepared datasets.
        finetune_settings: overrides of every fine-tuning, each ``dotted.name=value``.

    Raises:
        UserError: see `xkd.evaluation.plan.plan`; `run` is empty; or there are more evaluations than fit in a
            pipeline run.
    """
    if not run:
        raise UserError("run: must not be empty; give the run directory, for example run=runs/demo")
    settings = read_settings(None, finetune_settings)
    if trained:
        chosen = plan(Path(run), prepared, encoders, protocols, settings)
    else:
        chosen = choose(prepared, encoders, protocols, finetune=settings)
    items = group([str(dataset.root / task.name) for dataset, task in chosen])
    return items if trained else []


def group(evaluations: Sequence[str]) -> list[str]:
    """Return items of a line for each evaluation: of one; of `PER_TASK` where there are more than `TASKS`.

    Args:
        evaluations: the prepared dataset and the name of a task, such as
            ``data/ucf101-prepared/ucf101-video-svm-teacher-fold2``.

    Raises:
        UserError: there are too many for a pipeline run.
    """
    count, most = len(evaluations), TASKS * PER_TASK
    if count > most:
        raise UserError(
            f"{count} evaluations, but at most {most} fit in one run of a pipeline; select fewer with "
            "downstream, encoders or protocols, and evaluate the others with pipelines/xkd_evaluations.py"
        )
    size = 1 if count <= TASKS else PER_TASK
    return ["\n".join(evaluations[first : first + size]) for first in range(0, count, size)]


def evaluate_item(run: Path, item: str, finetune_settings: Sequence[str], out: Path) -> list[Score]:
    """Do the evaluations of an item, each of them also if another fails; arguments as of `fan_out`.

    Raises:
        UserError: see `xkd.evaluation.evaluate.evaluate`. Of several errors, the first is raised.
    """
    tasks = [_task(line, finetune_settings) for line in item.splitlines()]
    # Last comes what an earlier attempt did not finish: it may have ended that, for example out of memory.
    tasks.sort(key=lambda pair: failure_path(out, pair[1].name).exists())
    scores: list[Score] = []
    errors: list[Exception] = []
    for directory, task in tasks:
        try:
            scores.append(evaluate(run, directory, task, out, planned=True))
        except RunInterruptedError:
            raise
        except Exception as error:
            _LOG.error("%s failed: %s", task.name, one_line(error))
            errors.append(error)
    if errors:
        raise errors[0]
    return scores


def _task(line: str, finetune_settings: Sequence[str]) -> tuple[Path, Task]:
    """Return the prepared dataset and the task of an item's line."""
    folder, _, name = line.rpartition("/")
    key = parse_task_name(name)
    if key is None:
        raise UserError(
            f"{line!r} is no evaluation, such as data/ucf101-prepared/ucf101-video-svm-teacher-fold2"
        )
    protocol = PROTOCOLS[find_eval_spec(key.dataset, key.modality, key.protocol).protocol]
    settings = read_settings(None, finetune_settings) if protocol.trains_encoder else None
    return Path(folder), make_task(*key, settings)
