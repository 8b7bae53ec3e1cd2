"""evaluate: one score of one frozen encoder."""

from typing import Any

from kfp.dsl import Artifact, Metrics, Output

from components import component


@component
def evaluate(
    run: str, data: str, task: dict[str, Any], out: str, score: Output[Artifact], metrics: Output[Metrics]
) -> None:
    """Evaluate.

    Args:
        run: the run directory.
        data: the prepared dataset.
        task: fields of `xkd.evaluate.task.Task`.
        out: directory of scores, with the features that tasks share.
        score: the score with all that is needed to reproduce it.
        metrics: the score by its task's name.
    """
    import json
    import shutil
    from pathlib import Path

    from xkd.evaluate.task import evaluate as evaluate_task
    from xkd.evaluate.task import parse_task

    path = evaluate_task(Path(run), Path(data), parse_task(task), Path(out))
    shutil.copy(path, score.path)
    score.metadata["file"] = path.name
    metrics.log_metric(path.stem, json.loads(path.read_text())["score"])
