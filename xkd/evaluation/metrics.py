"""Metrics of predictions: top-1, top-5, confusion and mean average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xkd.errors import UserError

Metric = Literal["top1", "map", "recall"]
"""Share of clips recognized, the mean of the classes' average precisions, or the share of clips found."""
METRIC_NAMES: dict[Metric, str] = {"top1": "top-1", "map": "mAP", "recall": "recall@1"}
"""Display names."""

Predictions = NDArray[np.floating[Any]]
"""(clips, classes), higher is more likely."""
Labels = NDArray[np.integer[Any]]
"""(clips,), each clip's class as a column of the predictions."""
LabelSets = NDArray[np.bool_]
"""(clips, classes), which of the classes a clip has."""


def compute_metrics(
    predictions: Predictions, labels: LabelSets, classes: Sequence[str], metric: Metric
) -> dict[str, Any]:
    """Return the fields of a `Score` that measure predictions; for ``top1`` every clip has one label.

    Raises:
        UserError: for ``map``, no class has a test clip.
    """
    if metric == "map":
        precisions = average_precisions(predictions, labels, classes)
        return {
            "score": mean_over_classes(precisions),
            "chance": float(labels.mean()),
            "per_class": precisions,
        }
    label = labels.argmax(axis=1)
    return {
        "score": top_k(predictions, label, 1),
        "chance": 1 / len(classes),
        "per_class": recalls(predictions, label, classes),
        "top5": top_k(predictions, label, 5) if len(classes) > 5 else None,
        "confusion": confusion(predictions, label, classes),
        "recognized": "".join("01"[hit] for hit in (predictions.argmax(axis=1) == label).astype(int)),
    }


def top_k(predictions: Predictions, labels: Labels, k: int) -> float:
    """Return the share of rows whose label is among the `k` highest predictions (of ties the first)."""
    best = np.argsort(-predictions, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion(predictions: Predictions, labels: Labels, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count rows by true and predicted class; pairs that do not occur are left out."""
    counts: dict[str, dict[str, int]] = {}
    for label, predicted in zip(labels, predictions.argmax(axis=1), strict=True):
        row = counts.setdefault(classes[label], {})
        row[classes[predicted]] = row.get(classes[predicted], 0) + 1
    return {name: counts[name] for name in classes if name in counts}


def recalls(predictions: Predictions, labels: Labels, classes: Sequence[str]) -> dict[str, float | None]:
    """Return the top-1 within each class; None for a class without rows."""
    correct = predictions.argmax(axis=1) == labels
    return {
        name: float(correct[labels == index].mean()) if np.any(labels == index) else None
        for index, name in enumerate(classes)
    }


def average_precisions(
    predictions: Predictions, labels: LabelSets, classes: Sequence[str]
) -> dict[str, float | None]:
    """Return scikit-learn's average precision of each class; None for a class that no row has."""
    from sklearn.metrics import average_precision_score  # slow import

    return {
        name: float(average_precision_score(labels[:, index], predictions[:, index]))
        if labels[:, index].any()
        else None
        for index, name in enumerate(classes)
    }


def mean_over_classes(values: Mapping[str, float | None]) -> float:
    """Return the mean over the classes that have a value; of average precisions the macro mAP.

    Raises:
        UserError: no class has one.
    """
    found = [value for value in values.values() if value is not None]
    if not found:
        raise UserError("no class has a test clip")
    return sum(found) / len(found)
