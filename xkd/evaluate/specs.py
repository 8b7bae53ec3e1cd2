"""Which evaluation belongs to which dataset, with the text's number of windows (supplement A.5, A.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from xkd.config import Modality
from xkd.errors import UserError, nearest
from xkd.evaluate.metrics import Metric
from xkd.evaluate.score import EvaluatedModality, ProtocolName


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """One protocol on one dataset."""

    modality: EvaluatedModality
    protocol: ProtocolName
    train_windows: int
    """Random windows of a training clip."""
    test_windows: int
    """Evenly spaced windows of a test clip."""
    folds: int = 1
    metric: Metric = "top1"


def _svm(modality: EvaluatedModality, train: int, test: int, folds: int = 1) -> EvalSpec:
    protocol: ProtocolName = "fusion" if modality == "audiovisual" else "svm"
    return EvalSpec(modality=modality, protocol=protocol, train_windows=train, test_windows=test, folds=folds)


def _finetune(modality: Modality, test: int, folds: int = 1, metric: Metric = "top1") -> EvalSpec:
    """One random window of each training clip an epoch (A.6)."""
    return EvalSpec(
        modality=modality, protocol="finetune", train_windows=1, test_windows=test, folds=folds, metric=metric
    )


def _all_svms(train: int, test: int) -> tuple[EvalSpec, ...]:
    return tuple(_svm(modality, train, test) for modality in ("video", "audio", "audiovisual"))


EVAL_SPECS: Mapping[str, tuple[EvalSpec, ...]] = MappingProxyType(
    {
        # Fewer than the paper's, whose datasets are no larger a clip: it has to end within minutes.
        "embedded": (*_all_svms(5, 3), _finetune("video", 3), _finetune("audio", 3)),
        "ucf101": (_svm("video", 25, 3, folds=3), _finetune("video", 3, folds=3)),
        "hmdb51": (_svm("video", 25, 3, folds=3), _finetune("video", 3, folds=3)),
        # "Approximately 10 epochs" of features; the authors' code takes 100 windows.
        "esc50": (_svm("audio", 10, 3, folds=5), _finetune("audio", 3, folds=5)),
        "fsd50k": (
            EvalSpec(modality="audio", protocol="fc", train_windows=10, test_windows=8, metric="map"),
            _finetune("audio", 8, metric="map"),
        ),
        "kinetics400": (
            *_all_svms(3, 3),
            EvalSpec(modality="video", protocol="fc", train_windows=3, test_windows=3),
            _finetune("video", 3),
        ),
        # The text says no number; these are the authors' code's.
        "kinetics_sound": _all_svms(20, 2),
    }
)


def find_eval_spec(dataset: str, modality: EvaluatedModality, protocol: ProtocolName) -> EvalSpec:
    """The setup of a protocol on a dataset.

    Raises:
        UserError: there is none; the line says which there are.
    """
    if dataset not in EVAL_SPECS:
        near = nearest(dataset, EVAL_SPECS)
        raise UserError(f"no evaluation of dataset {dataset}{near}; there are {', '.join(EVAL_SPECS)}")
    for setup in EVAL_SPECS[dataset]:
        if (setup.modality, setup.protocol) == (modality, protocol):
            return setup
    known = ", ".join(f"{setup.protocol} of {setup.modality}" for setup in EVAL_SPECS[dataset])
    raise UserError(f"dataset {dataset} is not evaluated by {protocol} of {modality}; it is by {known}")
