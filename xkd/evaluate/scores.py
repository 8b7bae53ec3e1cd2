"""Scores: how good a set of decisions is, and the small file that remembers it with its circumstances."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sklearn.metrics import average_precision_score

from xkd.config.overrides import build, to_dict
from xkd.errors import UserError
from xkd.io import write_text

EvaluatedModality = Literal["video", "audio", "audiovisual"]
EvaluatedEncoder = Literal["teacher", "student", "random", "raw"]
Protocol = Literal["svm", "fusion", "fc", "finetune"]
Metric = Literal["top1", "map"]
"""Share of clips recognized, or the mean of the classes' average precisions."""
METRICS: dict[Metric, str] = {"top1": "top-1", "map": "mAP"}
"""Their names for people."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Score:
    """The outcome of one evaluation task and everything needed to reproduce it."""

    dataset: str
    modality: EvaluatedModality
    protocol: Protocol
    encoder: EvaluatedEncoder
    fold: int = 1
    metric: Metric = "top1"
    score: float
    """In [0, 1]."""
    chance: float
    """What guessing scores: one of the classes, or for ``map`` the mean share of clips that have a class."""
    classes: list[str]
    per_class: dict[str, float | None]
    """Each class's recall, or for ``map`` its average precision; None for a class without test clips."""
    top5: float | None = None
    """Share of clips whose class is among the five likeliest; None for ``map`` and for few classes."""
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    """Test clips by their class and by the class they were taken for; for ``map`` empty."""
    train_clips: int
    test_clips: int
    windows: dict[str, int]
    """Windows a clip, by ``train`` and ``test``."""
    C: float | None = None
    """The cost a support vector machine was fitted with."""
    sweep: dict[str, float] = field(default_factory=dict)
    """Top-1 on the validation part of the first fold's training split by cost."""
    finetune: dict[str, Any] = field(default_factory=dict)
    """The settings of a fine-tuning (`xkd.config.FinetuneConfig`)."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """Its epochs: ``epoch``, ``loss`` (mean over the epoch), ``lr`` at its end, and where epochs are chosen
    by them the score of the ``validation`` clips."""
    encoder_hash: str
    data_revision: str
    preparation: str
    """`xkd.data.shards.manifest.PreparedDataset.preparation` of the data."""
    preset: str
    seed: int
    commit: str
    date: str
    seconds: float

    @property
    def name(self) -> str:
        """The task's name and the file's, without its ending."""
        return task_name(self.dataset, self.modality, self.protocol, self.encoder, self.fold)

    def write(self, folder: Path) -> Path:
        """Write ``{name}.json`` into a folder, whole or not at all."""
        path = folder / f"{self.name}.json"
        write_text(path, json.dumps(to_dict(self), indent=2) + "\n")
        return path

    @staticmethod
    def read(path: Path) -> Score:
        """Read a score.

        Raises:
            UserError: the file is not a score; the line names the file and the field.
        """
        try:
            values = json.loads(path.read_text())
        except OSError as error:
            raise UserError(f"cannot read score {path}: {error.strerror}") from None
        except ValueError:
            raise UserError(f"{path} is not valid JSON; remove it and evaluate again") from None
        if not isinstance(values, dict):
            raise UserError(f"{path} is not a score; remove it")
        return build(Score, values, f"{path} is not a score")


def task_name(dataset: str, modality: str, protocol: str, encoder: str, fold: int) -> str:
    """What a task and its score are called; the first fold, often the only one, goes without saying."""
    return f"{dataset}-{modality}-{protocol}-{encoder}" + (f"-fold{fold}" if fold > 1 else "")


def read_scores(folder: Path) -> list[Score]:
    """Every score in a folder, by name."""
    return [Score.read(path) for path in sorted(folder.glob("*.json"))]


def compute_metrics(
    decisions: NDArray[np.floating[Any]], labels: NDArray[np.bool_], classes: Sequence[str], metric: Metric
) -> dict[str, Any]:
    """The fields of a `Score` that say how good decisions on clips are.

    Args:
        decisions: (n, classes).
        labels: (n, classes), which of the classes a clip has; for ``top1`` one.
        classes: their names.
        metric: what counts.

    Returns:
        ``score``, ``chance``, ``per_class``; for ``top1`` also ``top5`` and ``confusion``.
    """
    if metric == "map":
        each = average_precisions(decisions, labels, classes)
        return {"score": mean_of(each), "chance": float(labels.mean()), "per_class": each}
    label = labels.argmax(axis=1)
    return {
        "score": top_k(decisions, label, 1),
        "chance": 1 / len(classes),
        "per_class": per_class(decisions, label, classes),
        "top5": top_k(decisions, label, 5) if len(classes) > 5 else None,
        "confusion": confusion(decisions, label, classes),
    }


def top_k(decisions: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], k: int) -> float:
    """Share of rows whose label is among their `k` largest decisions; of equals the first columns.

    Args:
        decisions: (n, classes).
        labels: (n,) columns of `decisions`.
        k: 1 or more.
    """
    best = np.argsort(-decisions, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion(
    decisions: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """How many rows of each class are taken for which; pairs that do not occur are left out."""
    found: dict[str, dict[str, int]] = {}
    for label, taken in zip(labels, decisions.argmax(axis=1), strict=True):
        row = found.setdefault(classes[label], {})
        row[classes[taken]] = row.get(classes[taken], 0) + 1
    return {name: found[name] for name in classes if name in found}


def per_class(
    decisions: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], classes: Sequence[str]
) -> dict[str, float | None]:
    """Top-1 within each class (its recall); None for a class without rows."""
    right = decisions.argmax(axis=1) == labels
    return {
        name: float(right[labels == index].mean()) if np.any(labels == index) else None
        for index, name in enumerate(classes)
    }


def average_precisions(
    decisions: NDArray[np.floating[Any]], labels: NDArray[np.bool_], classes: Sequence[str]
) -> dict[str, float | None]:
    """scikit-learn's average precision of each class; None for a class that no row has.

    Args:
        decisions: (n, classes).
        labels: (n, classes), which of the classes a row has.
        classes: their names.
    """
    return {
        name: float(average_precision_score(labels[:, index], decisions[:, index]))
        if labels[:, index].any()
        else None
        for index, name in enumerate(classes)
    }


def mean_of(values: Mapping[str, float | None]) -> float:
    """The plain mean over the classes that have a value; of average precisions the macro mAP.

    Raises:
        UserError: none has.
    """
    found = [value for value in values.values() if value is not None]
    if not found:
        raise UserError("no class has a test clip")
    return sum(found) / len(found)
