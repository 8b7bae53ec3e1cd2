"""evaluate: scores of encoders."""

from kfp.dsl import Artifact, Metrics, Output

from components import component


@component
def evaluate(
    run: str,
    item: str,
    finetune_settings: list[str],
    out: str,
    score: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Evaluate an item of `plan`; arguments as of `xkd.evaluation.fan_out.evaluate_item`.

    Args:
        out: directory of scores, and of the features that tasks share.
        score: the scores by name, with everything needed to reproduce them.
        metrics: the scores by name.
    """
    from pathlib import Path

    from xkd.config.overrides import to_dict
    from xkd.evaluation.fan_out import evaluate_item
    from xkd.io import write_json

    scores = evaluate_item(Path(run), item, finetune_settings, Path(out))
    write_json(Path(score.path), {each.name: to_dict(each) for each in scores})
    for each in scores:
        metrics.log_metric(each.name, each.score)
