"""The protocols of each dataset, with the paper's number of windows (supplement A.5, A.6)."""

from __future__ import annotations

from typing import NamedTuple

from xkd.errors import UserError, nearest
from xkd.evaluation.metrics import Metric
from xkd.evaluation.score import EvaluatedModality, ProtocolName


class EvalSpec(NamedTuple):
    """One protocol on one dataset."""

    modality: EvaluatedModality
    protocol: ProtocolName
    train_windows: int
    """Random windows per training clip; for fine-tuning per epoch (A.6)."""
    test_windows: int
    """Evenly spaced windows per test clip."""
    folds: int = 1
    metric: Metric = "top1"


def _svms(train_windows: int, test_windows: int) -> tuple[EvalSpec, ...]:
    return (
        EvalSpec("video", "svm", train_windows, test_windows),
        EvalSpec("audio", "svm", train_windows, test_windows),
        EvalSpec("audiovisual", "fusion", train_windows, test_windows),
    )


EVAL_SPECS: dict[str, tuple[EvalSpec, ...]] = {
    # Fewer windows than the paper's: its clips are as long, and evaluation must end within minutes.
    "embedded": (*_svms(5, 3), EvalSpec("video", "finetune", 1, 3), EvalSpec("audio", "finetune", 1, 3)),
    "ucf101": (EvalSpec("video", "svm", 25, 3, folds=3), EvalSpec("video", "finetune", 1, 3, folds=3)),
    "hmdb51": (EvalSpec("video", "svm", 25, 3, folds=3), EvalSpec("video", "finetune", 1, 3, folds=3)),
    # "Approximately 10 epochs" of features; the authors' code takes 100 windows.
    "esc50": (EvalSpec("audio", "svm", 10, 3, folds=5), EvalSpec("audio", "finetune", 1, 3, folds=5)),
    "fsd50k": (
        EvalSpec("audio", "fc", 10, 8, metric="map"),
        EvalSpec("audio", "finetune", 1, 8, metric="map"),
    ),
    "kinetics400": (*_svms(3, 3), EvalSpec("video", "fc", 3, 3), EvalSpec("video", "finetune", 1, 3)),
    # The paper gives no number; these are the authors' code's.
    "kinetics_sound": _svms(20, 2),
}
"""By dataset."""


def find_eval_spec(dataset: str, modality: str, protocol: str) -> EvalSpec:
    """Return the specification of a protocol on a dataset.

    Raises:
        UserError: there is none; the line lists those that there are.
    """
    if dataset not in EVAL_SPECS:
        near = nearest(dataset, EVAL_SPECS)
        raise UserError(f"no evaluation of dataset {dataset}{near}; available: {', '.join(EVAL_SPECS)}")
    for spec in EVAL_SPECS[dataset]:
        if (spec.modality, spec.protocol) == (modality, protocol):
            return spec
    known = ", ".join(f"{spec.protocol} of {spec.modality}" for spec in EVAL_SPECS[dataset])
    raise UserError(f"dataset {dataset} has no evaluation by {protocol} of {modality}; available: {known}")
