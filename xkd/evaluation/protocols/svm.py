"""The linear SVM protocol on frozen features (supplement A.5).

The authors' code picks the cost on each test fold; the paper tunes it on the first split. Here it is chosen
on a validation part of the first fold's training split, so that no test row is used before the score.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xkd.evaluation.features import ClipFeatures
from xkd.evaluation.metrics import Labels, Predictions, top_k
from xkd.evaluation.protocols import svm_solver
from xkd.evaluation.protocols.protocol import Evaluation, FeatureProtocol, FeatureReader, Prediction
from xkd.evaluation.score import Solver
from xkd.evaluation.splits import validation_mask
from xkd.io import read_json, write_json
from xkd.log import get_logger
from xkd.progress import progress

_LOG = get_logger(__name__)
COSTS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The swept values of C (A.5)."""
MAX_ITERATIONS = 1000
"""Of scikit-learn's solver per cost."""
_BLOCK = 4096

Features = NDArray[np.floating[Any]]
Weights = NDArray[np.float64]
Fit = Callable[[Features, NDArray[np.integer[Any]], int, Sequence[float]], dict[float, Weights]]
"""Takes features (rows, D), the class of each row, the number of classes, and costs; returns as
`xkd.evaluation.protocols.svm_solver.fit`."""


class LinearSVM(FeatureProtocol):
    """A linear SVM on frozen features."""

    settings = (*FeatureProtocol.settings, "solver")

    def fit(self, evaluation: Evaluation, read: FeatureReader) -> Prediction:
        """Fit with the cost chosen on the first fold's training clips, by whichever fold comes first."""
        task, splits, classes = evaluation.task, evaluation.splits, len(evaluation.splits.dataset.classes)
        fit = choose_fit(task.solver, evaluation.context.device)
        key = evaluation.key(task.windows, task.seed, task.solver, [clip.id for clip in splits.first])
        path = evaluation.out / "features" / f"cost-{key}.json"
        if not path.is_file():
            labels = splits.first_label(splits.first)
            cost, sweep = choose_cost(read(splits.first, "train"), labels, classes, task.seed, fit)
            write_json(path, {"cost": cost, "sweep": list(sweep.items())})
        stored = read_json(path)
        cost, labels = stored["cost"], splits.first_label(splits.train)
        train, test = read(splits.train, "train"), read(splits.test, "test")
        values = fit_and_predict(train, labels, test, classes, cost, fit)
        facts = {"C": cost, "sweep": {f"{value:g}": top1 for value, top1 in stored["sweep"]}}
        return Prediction(values, facts, f", C {cost:g}")


def choose_fit(solver: Solver, device: torch.device) -> Fit:
    """Return the function that fits; scikit-learn's uses the CPU."""
    return fit_sklearn if solver == "sklearn" else partial(svm_solver.fit, device=device)


def choose_cost(
    train: ClipFeatures, labels: Labels, classes: int, seed: int, fit: Fit, costs: Sequence[float] = COSTS
) -> tuple[float, dict[float, float]]:
    """Choose C on a validation part of training clips; return it, and the validation top-1 of each value."""
    held_out = validation_mask(labels, seed)
    part, check = train.select(~held_out[train.clip]), train.select(held_out[train.clip])
    checked = np.unique(check.clip)
    trained, targets = np.unique(labels[part.clip], return_inverse=True)
    weights = fit(part.features, targets, len(trained), costs)
    sweep: dict[float, float] = {}
    for cost in costs:
        values = _predict(weights[cost], trained, check, classes)
        sweep[cost] = top_k(values[checked], labels[checked], 1)
    return max(costs, key=lambda cost: (sweep[cost], -cost)), sweep  # of ties the most regularized


def fit_and_predict(
    train: ClipFeatures, labels: Labels, test: ClipFeatures, classes: int, cost: float, fit: Fit
) -> Predictions:
    """Fit on training windows, one row each; predict test clips by the mean decision over their windows.

    Returns:
        (test clips, classes); minus infinity for a class without training clips, NaN for a clip without rows.
    """
    trained, targets = np.unique(labels[train.clip], return_inverse=True)
    weights = fit(train.features, targets, len(trained), [cost])[cost]
    return _predict(weights, trained, test, classes)


def fit_sklearn(
    features: Features, targets: NDArray[np.integer[Any]], classes: int, costs: Sequence[float]
) -> dict[float, Weights]:
    """Fit by scikit-learn, the reference of `xkd.evaluation.protocols.svm_solver.fit`."""
    # Slow to import (scipy.stats): commands that only list protocols or read scores never fit.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    weights: dict[float, Weights] = {}
    with progress("fitting SVMs", len(costs)) as bar:
        for cost in costs:
            machine = LinearSVC(C=cost, max_iter=MAX_ITERATIONS, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # replaced by the line below
                machine.fit(features, targets)
            if machine.n_iter_ >= MAX_ITERATIONS:
                _LOG.warning(
                    "SVM with C %g: at least one of %d classes has not converged after %d iterations",
                    *(cost, classes, MAX_ITERATIONS),
                )
            weights[cost] = np.column_stack([machine.coef_, machine.intercept_])
            bar.advance()
    return weights


def _predict(
    weights: Weights, trained: NDArray[np.integer[Any]], test: ClipFeatures, classes: int
) -> Predictions:
    """Return what `fit_and_predict` does, by the weights of the trained classes."""
    if len(trained) == 2:  # a single problem
        weights = np.concatenate([-weights, weights])
    blocks = np.array_split(test.features, 1 + len(test.features) // _BLOCK)  # converted to float64
    decisions = np.concatenate([block @ weights[:, :-1].T + weights[:, -1] for block in blocks])
    predictions = np.full((test.clips, classes), -np.inf)
    predictions[:, trained] = test.mean(decisions)
    return predictions
