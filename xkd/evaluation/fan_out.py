"""The evaluations of a pipeline run, one task each, and how many a Kubeflow pipeline holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from xkd.config.overrides import read_settings
from xkd.errors import UserError
from xkd.evaluation.plan import choose, plan

MOST = 240
"""Evaluations of one pipeline run: Argo's record of a run must fit in 1 MiB, compressed (tests/pipelines)."""


def fan_out(
    run: str,
    data: str,
    datasets: Sequence[str],
    encoders: Sequence[str],
    protocols: Sequence[str],
    finetune_settings: Sequence[str],
) -> list[str]:
    """Return the evaluations of a run (`xkd.evaluation.plan.plan`), each as JSON.

    Inside of its own lists and dictionaries KFP makes integers floats, which rounds large ones, and its local
    runner refuses null.

    Args:
        run: the run directory; empty, before there is one: only check the arguments and return no items.
        data: directory with each dataset, prepared as ``{name}-prepared``.
        finetune_settings: overrides of every fine-tuning, each ``dotted.name=value``.

    Raises:
        UserError: see `xkd.evaluation.plan.choose`; or there are more evaluations than fit in a pipeline run.
    """
    prepared = [Path(data, f"{name}-prepared") for name in datasets]
    settings = read_settings(None, finetune_settings)
    if run:
        items = plan(Path(run), prepared, encoders, protocols, settings)
        count = len(items)
    else:
        items, count = [], len(choose(prepared, encoders, protocols, finetune=settings))
    if count > MOST:
        raise UserError(
            f"{count} evaluations, but at most {MOST} fit in one run of a pipeline; select fewer with "
            "downstream, encoders or protocols, and evaluate the others with pipelines/xkd_evaluations.py"
        )
    return [json.dumps(item, sort_keys=True) for item in items]
