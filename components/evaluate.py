"""evaluate: one score of one encoder."""

from typing import Any

from kfp.dsl import Artifact, Metrics, Output

from components import component


@component
def evaluate(
    run: str, item: dict[str, Any], out: str, score: Output[Artifact], metrics: Output[Metrics]
) -> None:
    """Evaluate.

    Args:
        run: the run directory.
        item: what `plan` says of it. Other data or weights are other work, and another caching key.
        out: directory of scores, with the features that tasks share.
        score: the score with all that is needed to reproduce it.
        metrics: the score by its task's name.
    """
    import json
    import shutil
    from pathlib import Path

    from xkd.evaluate.evaluate import evaluate as evaluate_task
    from xkd.evaluate.task import parse_task

    path = evaluate_task(Path(run), Path(item["data"]), parse_task(item["task"]), Path(out))
    shutil.copy(path, score.path)
    metrics.log_metric(path.stem, json.loads(path.read_text())["score"])
