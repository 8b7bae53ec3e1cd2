"""The linear SVM protocol on frozen features (supplement A.5).

The authors' code picks the cost on each test fold; the paper tunes it on the first split. Here it is chosen
on a validation part of the first fold's training split, so that no test row is used before the score.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from xkd.evaluation.features import ClipFeatures
from xkd.evaluation.metrics import Labels, Predictions, top_k
from xkd.evaluation.protocols.protocol import Evaluation, FeatureProtocol, FeatureReader, Prediction
from xkd.evaluation.splits import validation_mask
from xkd.io import read_json, write_json
from xkd.progress import progress

COSTS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The swept values of C (A.5)."""


class LinearSVM(FeatureProtocol):
    """A linear SVM on frozen features."""

    def fit(self, evaluation: Evaluation, read: FeatureReader) -> Prediction:
        """Fit with the cost chosen on the first fold's training clips, by whichever fold comes first."""
        task, splits, classes = evaluation.task, evaluation.splits, len(evaluation.splits.dataset.classes)
        key = evaluation.key(task.windows, task.seed, [clip.id for clip in splits.first])
        path = evaluation.out / "features" / f"cost-{key}.json"
        if not path.is_file():
            labels = splits.first_label(splits.first)
            cost, sweep = choose_cost(read(splits.first, "train"), labels, classes, task.seed)
            write_json(path, {"cost": cost, "sweep": list(sweep.items())})
        stored = read_json(path)
        cost, labels = stored["cost"], splits.first_label(splits.train)
        train, test = read(splits.train, "train"), read(splits.test, "test")
        values = fit_and_predict(train, labels, test, classes, cost, task.seed)
        facts = {"C": cost, "sweep": {f"{value:g}": top1 for value, top1 in stored["sweep"]}}
        return Prediction(values, facts, f", C {cost:g}")


def choose_cost(
    train: ClipFeatures, labels: Labels, classes: int, seed: int, costs: Sequence[float] = COSTS
) -> tuple[float, dict[float, float]]:
    """Choose C on a validation part of training clips; return it, and the validation top-1 of each value."""
    held_out = validation_mask(labels, seed)
    fit, check = train.select(~held_out[train.clip]), train.select(held_out[train.clip])
    checked = np.unique(check.clip)
    sweep: dict[float, float] = {}
    with progress("choosing C", len(costs)) as bar:
        for cost in costs:
            values = fit_and_predict(fit, labels, check, classes, cost, seed)
            sweep[cost] = top_k(values[checked], labels[checked], 1)
            bar.advance()
    return max(costs, key=lambda cost: (sweep[cost], -cost)), sweep  # of ties the most regularized


def fit_and_predict(
    train: ClipFeatures, labels: Labels, test: ClipFeatures, classes: int, cost: float, seed: int
) -> Predictions:
    """Fit on training windows, one row each; predict test clips by the mean decision over their windows.

    Returns:
        (test clips, classes); minus infinity for a class without training clips, NaN for a clip without rows.
    """
    # Slow to import (scipy.stats): commands that only list protocols or read scores never fit.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=cost, max_iter=1000, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the protocol fixes max_iter
        machine.fit(train.features, labels[train.clip])
    decisions = machine.decision_function(test.features)
    if decisions.ndim == 1:  # scikit-learn returns one column for two classes
        decisions = np.stack([-decisions, decisions], axis=1)
    predictions = np.full((test.clips, classes), -np.inf)
    predictions[:, machine.classes_] = test.mean(decisions)
    return predictions
