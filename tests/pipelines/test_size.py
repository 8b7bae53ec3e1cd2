from __future__ import annotations

import json
from hashlib import sha256
from itertools import product
from pathlib import Path

import yaml
from kfp import compiler

from pipelines.xkd_full import xkd_full
from tests.pipelines.argo import LIMIT, workflow_size
from xkd.evaluation.fan_out import MOST
from xkd.evaluation.protocols.protocol import ENCODERS
from xkd.evaluation.specs import EVAL_SPECS


def items() -> list[str]:
    """Return as many items as `plan` accepts, for datasets with five folds each."""
    found = [
        {
            "data": f"runs/data/{dataset}-prepared",
            "preparation": sha256(dataset.encode()).hexdigest()[:16],
            "revision": sha256(f"{dataset} 1".encode()).hexdigest()[:32],
            "task": {
                "dataset": dataset,
                "encoder": encoder,
                "fold": fold,
                "modality": spec.modality,
                "protocol": spec.protocol,
                "settings": {"accumulate": 2},
            },
            "weights": sha256(f"{encoder} {spec.modality}".encode()).hexdigest(),
        }
        for fold, dataset, encoder in product(range(1, 6), EVAL_SPECS, ENCODERS)
        for spec in EVAL_SPECS[dataset]
    ]
    assert len(found) >= MOST
    return [json.dumps(item, sort_keys=True) for item in found[:MOST]]


def test_argo_can_record_as_many_evaluations_as_plan_accepts(tmp_path: Path) -> None:
    compiler.Compiler().compile(xkd_full, str(tmp_path / "pipeline.yaml"))
    spec, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    assert workflow_size(spec, platform["platforms"]["kubernetes"], items()) < LIMIT
