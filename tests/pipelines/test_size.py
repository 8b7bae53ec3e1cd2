from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import yaml
from kfp import compiler

from pipelines.xkd_full import xkd_full
from tests.pipelines.argo import LIMIT, workflow_size
from xkd.evaluation.fan_out import PER_TASK, TASKS, group
from xkd.evaluation.protocols.protocol import ENCODERS
from xkd.evaluation.score import TaskKey
from xkd.evaluation.specs import EVAL_SPECS

FOLDER = "runs/data/{}-prepared-short_side-64-max_fps-8/"
ALL = [
    FOLDER.format(dataset) + TaskKey(dataset, spec.modality, spec.protocol, encoder, fold).name
    for fold, dataset, encoder in product(range(1, 6), EVAL_SPECS, ENCODERS)
    for spec in EVAL_SPECS[dataset]
]
"""Evaluations of datasets with five folds each."""


@pytest.mark.system  # seconds, for 24 MB of JSON
def test_argo_can_record_400_evaluations_also_if_every_task_is_retried_twice(tmp_path: Path) -> None:
    compiler.Compiler().compile(xkd_full, str(tmp_path / "pipeline.yaml"))
    spec, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    items = group(ALL[:400])
    assert "\n".join(items).splitlines() == ALL[:400]
    assert workflow_size(spec, platform["platforms"]["kubernetes"], items, attempts=3) < 0.95 * LIMIT


def test_a_task_does_one_evaluation_where_that_fits() -> None:
    assert group(ALL[:TASKS]) == ALL[:TASKS]
    items = group(ALL[: TASKS + 1])
    assert [len(item.splitlines()) for item in items] == [PER_TASK] * (TASKS // PER_TASK) + [1]
