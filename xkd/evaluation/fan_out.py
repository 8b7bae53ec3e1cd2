"""The evaluations of a pipeline run: what each of its tasks evaluates, and how many a run holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xkd.config.overrides import read_settings
from xkd.data.shards.manifest import dataset_name
from xkd.errors import RunInterruptedError, UserError
from xkd.evaluation.evaluate import evaluate
from xkd.evaluation.plan import choose, make_task, plan
from xkd.evaluation.protocols import PROTOCOLS
from xkd.evaluation.score import Score, Task, failure_path, parse_task_name
from xkd.evaluation.specs import find_eval_spec
from xkd.io import one_line
from xkd.log import get_logger

_LOG = get_logger(__name__)

TASKS = 200
"""Tasks of a pipeline run that evaluate: Argo's record must fit in 1 MiB, compressed (tests/pipelines)."""
PER_TASK = 2
"""Evaluations of a task, where there are more evaluations than tasks."""


def fan_out(
    run: str,
    trained: bool,
    data: str,
    datasets: Sequence[str],
    encoders: Sequence[str],
    protocols: Sequence[str],
    finetune_settings: Sequence[str],
) -> list[str]:
    """Return the evaluations of a run (`xkd.evaluation.plan.plan`) as one item for each task, see `group`.

    Args:
        run: the run directory.
        trained: False, before there is a run: only check the arguments and return no items.
        data: directory with each dataset, prepared as ``{name}-prepared``.
        finetune_settings: overrides of every fine-tuning, each ``dotted.name=value``.

    Raises:
        UserError: see `xkd.evaluation.plan.plan`; `run` is empty; or there are more evaluations than fit in a
            pipeline run.
    """
    if not run:
        raise UserError("run: must not be empty; give the run directory, for example run=runs/demo")
    prepared = [_prepared(data, name) for name in datasets]
    settings = read_settings(None, finetune_settings)
    if trained:
        chosen = plan(Path(run), prepared, encoders, protocols, settings)
    else:
        chosen = choose(prepared, encoders, protocols, finetune=settings)
    # The name of a prepared dataset may be another than that of its directory.
    names = dict(zip(prepared, datasets, strict=True))
    items = group([task.key._replace(dataset=names[dataset.root]).name for dataset, task in chosen])
    return items if trained else []


def group(evaluations: Sequence[str]) -> list[str]:
    """Return items of a line for each evaluation: of one; of `PER_TASK` where there are more than `TASKS`.

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


def evaluate_item(
    run: Path, data: Path, item: str, finetune_settings: Sequence[str], out: Path
) -> list[Score]:
    """Do the evaluations of an item, each of them also if another fails; arguments as of `fan_out`.

    Raises:
        UserError: see `xkd.evaluation.evaluate.evaluate`. Of several errors, the first is raised.
    """
    tasks = [_task(data, line, finetune_settings) for line in item.splitlines()]
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


def _task(data: Path, line: str, finetune_settings: Sequence[str]) -> tuple[Path, Task]:
    """Return the prepared dataset and the task of an item's line."""
    key = parse_task_name(line)
    if key is None:
        raise UserError(f"{line!r} is no evaluation, such as ucf101-video-svm-teacher-fold2")
    directory = _prepared(data, key.dataset)
    key = key._replace(dataset=dataset_name(directory))
    protocol = PROTOCOLS[find_eval_spec(key.dataset, key.modality, key.protocol).protocol]
    settings = read_settings(None, finetune_settings) if protocol.trains_encoder else None
    return directory, make_task(*key, settings)


def _prepared(data: str | Path, name: str) -> Path:
    return Path(data, f"{name}-prepared")
