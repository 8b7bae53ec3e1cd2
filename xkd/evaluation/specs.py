"""The protocols of each dataset, with the paper's number of windows (supplement A.5, A.6)."""

from __future__ import annotations

from typing import NamedTuple, get_args

from xkd.config import MODALITIES
from xkd.data.shards.manifest import PreparedDataset
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


def _retrieval(test_windows: int) -> EvalSpec:
    """Not of the paper: sound by video among the test clips, without training."""
    return EvalSpec("audiovisual", "retrieval", 1, test_windows, metric="recall")


EVAL_SPECS: dict[str, tuple[EvalSpec, ...]] = {
    # Fewer windows than the paper's: its clips are as long, and evaluation must end within minutes.
    "embedded": (
        *_svms(5, 3),
        EvalSpec("video", "finetune", 1, 3),
        EvalSpec("audio", "finetune", 1, 3),
        _retrieval(3),
    ),
    "ucf101": (EvalSpec("video", "svm", 25, 3, folds=3), EvalSpec("video", "finetune", 1, 3, folds=3)),
    "hmdb51": (EvalSpec("video", "svm", 25, 3, folds=3), EvalSpec("video", "finetune", 1, 3, folds=3)),
    # "Approximately 10 epochs" of features; the authors' code takes 100 windows.
    "esc50": (EvalSpec("audio", "svm", 10, 3, folds=5), EvalSpec("audio", "finetune", 1, 3, folds=5)),
    "fsd50k": (
        EvalSpec("audio", "fc", 10, 8, metric="map"),
        EvalSpec("audio", "finetune", 1, 8, metric="map"),
    ),
    "kinetics400": (
        *_svms(3, 3),
        EvalSpec("video", "fc", 3, 3),
        EvalSpec("video", "finetune", 1, 3),
        _retrieval(3),
    ),
    # The paper gives no number; these are the authors' code's.
    "kinetics_sound": (*_svms(20, 2), _retrieval(2)),
}
"""By official dataset, and of the embedded one."""
PRETRAINING = ("kinetics600", "kinetics700", "audioset")
"""Official datasets without evaluations."""
_OWN = (
    *_svms(5, 3),
    *(EvalSpec(modality, "fc", 5, 3) for modality in MODALITIES),
    *(EvalSpec(modality, "finetune", 1, 3) for modality in MODALITIES),
)
"""Of a dataset of one's own with one label a clip: the windows of the embedded one."""


def own_specs(metric: Metric, folds: int) -> tuple[EvalSpec, ...]:
    """Return the protocols of a dataset of one's own; those of several labels have the metric mAP.

    With the metric ``recall``, those that need no labels.
    """
    usable = {"top1": ("svm", "fusion", "fc", "finetune"), "map": ("fc", "finetune"), "recall": ()}[metric]
    return (
        *(spec._replace(metric=metric, folds=folds) for spec in _OWN if spec.protocol in usable),
        _retrieval(3)._replace(folds=folds),
    )


def specs_of(dataset: PreparedDataset) -> tuple[EvalSpec, ...]:
    """Return the protocols of a dataset; of one of one's own without labels in train or test, retrieval."""
    if dataset.own is None:
        return EVAL_SPECS.get(dataset.name, ())
    clips = dataset.clips
    labelled = clips.select(clips.match("labels", bool)).splits
    if "train" not in labelled or not labelled & {"test", "val"}:
        return own_specs("recall", dataset.folds) if clips.splits & {"test", "val"} else ()
    several = clips.match("labels", lambda labels: len(labels) > 1).any()
    return own_specs("map" if several else "top1", dataset.folds)


def specs_by_name(dataset: str) -> tuple[EvalSpec, ...]:
    """Return the protocols of a dataset; of one that is not official, all that it may have."""
    return EVAL_SPECS.get(dataset, () if dataset in PRETRAINING else (*_OWN, _retrieval(3)))


def find_eval_spec(dataset: str | PreparedDataset, modality: str, protocol: str) -> EvalSpec:
    """Return the specification of a protocol on a dataset; by a name that is not official, of one's own.

    Raises:
        UserError: there is none; the line lists those that there are, or the nearest name.
    """
    for kind, given, known in (
        ("modality", modality, get_args(EvaluatedModality)),
        ("protocol", protocol, get_args(ProtocolName)),
    ):
        if given not in known:
            raise UserError(f"unknown {kind} {given!r}{nearest(given, known)}; known: {', '.join(known)}")
    if isinstance(dataset, PreparedDataset):
        name, specs = dataset.name, specs_of(dataset)
    else:
        name, specs = dataset, specs_by_name(dataset)
    for spec in specs:
        if (spec.modality, spec.protocol) == (modality, protocol):
            return spec
    if not specs:
        raise no_evaluation(name)
    available = ", ".join(f"{spec.protocol} of {spec.modality}" for spec in specs)
    raise UserError(f"dataset {name} has no evaluation by {protocol} of {modality}; available: {available}")


def no_evaluation(dataset: str) -> UserError:
    """Return the error about a dataset without any protocol."""
    if dataset in PRETRAINING:
        return UserError(f"no evaluation of dataset {dataset}; available: {', '.join(EVAL_SPECS)}")
    return UserError(f"no evaluation of dataset {dataset}: it has no labels, or none in train or in test")
