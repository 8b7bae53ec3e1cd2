"""evaluate: one score of one encoder."""

from kfp.dsl import Artifact, Metrics, Output

from components import component


@component
def evaluate(run: str, item: str, out: str, score: Output[Artifact], metrics: Output[Metrics]) -> None:
    """Evaluate one task.

    Args:
        run: the run directory.
        item: an item of `plan`.
        out: directory of scores, and of the features that tasks share.
        score: the score with everything needed to reproduce it.
        metrics: the score by its task's name.
    """
    import json
    from pathlib import Path

    from xkd.config.overrides import to_dict
    from xkd.evaluation.evaluate import evaluate as evaluate_task
    from xkd.evaluation.plan import make_task
    from xkd.io import write_json

    chosen = json.loads(item)
    result = evaluate_task(Path(run), Path(chosen["data"]), make_task(**chosen["task"]), Path(out))
    write_json(Path(score.path), to_dict(result))
    metrics.log_metric(result.name, result.score)
