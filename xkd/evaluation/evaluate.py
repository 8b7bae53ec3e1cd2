"""One evaluation task becomes one small score file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xkd.config.overrides import build, to_dict
from xkd.data.shards.manifest import PreparedDataset
from xkd.errors import UserError
from xkd.evaluation.features import FeatureExtractor
from xkd.evaluation.metrics import METRIC_NAMES
from xkd.evaluation.protocols import PROTOCOLS
from xkd.evaluation.protocols.protocol import Evaluation
from xkd.evaluation.score import Score, Task, failure_path, previous_path, record_failure, score_path
from xkd.evaluation.specs import find_eval_spec
from xkd.evaluation.splits import read_splits
from xkd.io import one_line, try_lock
from xkd.launch.distributed import DistributedContext, distributed_context
from xkd.launch.local import run_locally
from xkd.launch.termination import run_worker
from xkd.log import get_logger
from xkd.parallel.threads import limit_threads
from xkd.rundir import RunDir
from xkd.train.run_state import git_commit

_LOG = get_logger(__name__)


def evaluate(
    run: Path, data: Path, task: Task, out: Path, processes: int = 0, *, planned: bool = False
) -> Score:
    """Score one task and write ``out/{task.name}.json``.

    An existing score of the same encoder, data and settings is kept. Any other is renamed to
    ``{task.name}.previous`` before anything else: however the evaluation ends, no table shows it in the place
    of the new one. Features are stored in ``out/features`` for the tasks that share them, fine-tuned networks
    in ``out/finetuned``. The reason of a failure is written to ``out/{task.name}.failed``, so that a table
    can show why a score is missing; but a mistake that is found before anything is computed changes nothing
    in `out`. While another process evaluates the task, with whatever settings, this one waits.

    Args:
        run: directory of a finished pretraining; whether its verdict allows an evaluation is the caller's
            decision.
        processes: number that extract features or fine-tune together; 0: one per GPU, one without GPUs.
        planned: whether the task is one of a list, of which a table shows what is missing: then the reason is
            written also if nothing was computed.

    Raises:
        UserError: the run, an encoder, a split, a label or a modality is missing; the data is another
            dataset; or `out` is not writable.
        RunInterruptedError: fine-tuning was stopped by a signal, and its state is saved.
    """
    if processes < 0:
        raise UserError(f"processes must not be negative, got {processes}")
    workers = processes or torch.cuda.device_count() or 1
    dataset = None
    if not planned:
        dataset = PreparedDataset.open(data)
        _describe(run, dataset, task, out, DistributedContext(0, workers, torch.device("cpu")))
    with _locked(task, out):
        record = partial(record_failure, out, task.name, RunDir(run))
        record("running, or killed before it could record a reason")
        with suppress(FileNotFoundError):
            score_path(out, task.name).replace(previous_path(out, task.name))
        try:
            if workers > 1:
                arguments = ["--run", run, "--data", data, "--out", out, "--task", json.dumps(to_dict(task))]
                run_locally(["xkd.evaluation.evaluate", *map(str, arguments)], workers)
            else:
                limit_threads()
                evaluate_here(run, data, task, out, dataset)
        except BaseException as error:
            record(one_line(error) if isinstance(error, Exception) else f"ended by {type(error).__name__}")
            raise
        failure_path(out, task.name).unlink(missing_ok=True)
        return Score.read(score_path(out, task.name))


@contextmanager
def _locked(task: Task, out: Path) -> Iterator[None]:
    """Hold the lock of a task in a folder of scores; wait while another process evaluates it.

    Raises:
        UserError: the folder is not writable.
    """
    folder = out / "features"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f".{task.name}.lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write {out}: {one_line(error)}") from None
    with file as lock:
        if not try_lock(lock):
            _LOG.info("waiting for another process to evaluate %s", task.name)
            while not try_lock(lock):
                time.sleep(1)
        yield


def evaluate_here(
    run: Path, data: Path, task: Task, out: Path, dataset: PreparedDataset | None = None
) -> None:
    """Do this process's part of `evaluate`, alone or as one of those that torchrun started.

    Args:
        dataset: that at `data`, if it was opened before.
    """
    begin = time.time()
    with distributed_context(RunDir(run).config().run.peer_seconds) as context:
        dataset = dataset or PreparedDataset.open(data)
        described = _describe(run, dataset, task, out, context)
        config, metric = described.config, described.metric
        extractors = [
            FeatureExtractor.load(described.run, config, task.encoder, modality, task.seed)
            for modality in task.inputs
        ]
        evaluation = replace(described, extractors=extractors)
        if context.broadcast_flag(lambda: _restore(evaluation)):
            if context.is_main:
                score = Score.read(score_path(out, task.name))
                print(f"{_describe_score(score)}, evaluated on {score.date[:10]} already", file=sys.stderr)
            return
        finish = PROTOCOLS[task.protocol].start(evaluation)
    if context.is_main:
        prediction = finish()
        measures = prediction.measures
        if prediction.values is not None:
            measures = evaluation.measure(prediction.values, evaluation.splits.test)
        score = Score(
            **task.key._asdict(),
            metric=metric,
            **measures,
            classes=list(dataset.classes) if prediction.values is not None else [],
            untrained=evaluation.splits.untrained,
            train_clips=len(evaluation.splits.train),
            test_clips=len(evaluation.splits.test),
            folds=dataset.folds,
            **evaluation.identity,
            **prediction.facts,
            preset=config.preset,
            commit=git_commit(),
            date=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=round(time.time() - begin, 1),
        )
        print(f"{_describe_score(score)}{prediction.summary}", file=sys.stderr)
        if score.untrained:
            print(f"{task.name}: no training clips of {', '.join(score.untrained)}", file=sys.stderr)
        score.write(out)


def _describe_score(score: Score) -> str:
    """Return a score in words."""
    return f"{score.name}: {METRIC_NAMES[score.metric]} {score.score:.1%} (chance {score.chance:.1%})"


def _describe(
    run: Path, dataset: PreparedDataset, task: Task, out: Path, context: DistributedContext
) -> Evaluation:
    """Return what there is to evaluate, without the networks.

    Raises:
        UserError: `run`, the dataset or a setting does not fit the task.
    """
    directory = RunDir(run)
    config = directory.config()
    if dataset.name != task.dataset:
        raise UserError(f"the task is for dataset {task.dataset}, but {dataset.root} holds {dataset.name}")
    metric = find_eval_spec(dataset, task.modality, task.protocol).metric
    evaluation = Evaluation(
        task=task,
        metric=metric,
        run=directory,
        config=config,
        splits=read_splits(dataset, task.fold, task.inputs, metric),
        extractors=(),
        out=out,
        context=context,
    )
    PROTOCOLS[task.protocol].check(evaluation)
    return evaluation


def _restore(evaluation: Evaluation) -> bool:
    """Put back the score that `evaluate` has renamed, if evaluating the task again would not change it."""
    task, out = evaluation.task, evaluation.out
    previous = previous_path(out, task.name)
    if not previous.is_file():
        return False
    try:
        score = Score.read(previous)
        changed = score.differences(evaluation.identity)
        if evaluation.metric == "top1" and not score.has_recognized:
            changed = "recognized is not there for every test clip"
    except UserError as error:
        changed = str(error)
    if not changed:
        previous.replace(score_path(out, task.name))
        return True
    _LOG.info("%s is evaluated again; %s keeps the earlier score: %s", task.name, previous, changed)
    return False


def main() -> dict[str, Any]:
    """Evaluate as a process that torchrun starts: ``--run DIR --data DIR --out DIR --task JSON``."""
    parser = argparse.ArgumentParser(prog="python -m xkd.evaluation.evaluate", description=main.__doc__)
    for name in ("run", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--task", required=True, help="fields of xkd.evaluation.score.Task")
    given = parser.parse_args()
    evaluate_here(given.run, given.data, build(Task, json.loads(given.task), "--task"), given.out)
    return {}


if __name__ == "__main__":
    run_worker(main)
