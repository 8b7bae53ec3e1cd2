"""The linear SVM protocol on frozen features (supplement A.5).

The authors' code picks the cost on each test fold; the text tunes it on the first split. Here it is chosen
on a validation part of the first fold's training split, so that no test row is looked at before the score.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from xkd.errors import UserError
from xkd.evaluate.metrics import top_k
from xkd.progress import progress

COSTS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The swept values of C (A.5)."""
VALIDATION_SHARE = 0.2
"""Share of each class's training clips that C, or an epoch, is chosen on."""

Rows = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


class Windows(NamedTuple):
    """Features of several windows of each clip."""

    features: Rows
    """(rows, D)"""
    clip: Ints
    """(rows,) which clip a row is a window of."""


class Choice(NamedTuple):
    """A cost, and why."""

    cost: float
    sweep: dict[float, float]
    """Top-1 on the validation clips by cost."""


def choose_cost(
    train: Windows, train_labels: Ints, classes: int, seed: int, costs: Sequence[float] = COSTS
) -> Choice:
    """Choose C on a validation part of training clips.

    Args:
        train: features of the training windows.
        train_labels: (training clips,) the class of each clip, indexed by ``train.clip``.
        classes: number of classes.
        seed: of the validation split and the solver.
        costs: the values of C to choose from.
    """
    held_out = validation_clips(train_labels, seed)[train.clip]
    fit, check = _take(train, ~held_out), _take(train, held_out)
    checked = np.unique(check.clip)
    sweep: dict[float, float] = {}
    with progress("choosing C", len(costs)) as bar:
        for cost in costs:
            decisions = decide(fit, train_labels, check, len(train_labels), classes, cost, seed)
            sweep[cost] = top_k(decisions[checked], train_labels[checked], 1)
            bar.advance()
    return Choice(max(costs, key=lambda cost: (sweep[cost], -cost)), sweep)  # of equals the more regularized


def validation_clips(labels: Ints, seed: int) -> NDArray[np.bool_]:
    """Mark the training clips to choose by: `VALIDATION_SHARE` of each class, never all of one.

    Whole clips are held out: windows of one clip resemble each other, so a clip on both sides would favor
    a cost that memorizes.

    Raises:
        UserError: there are too few.
    """
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(VALIDATION_SHARE * len(members))), len(members) - 1)
        held_out[members[:count]] = True
    if not held_out.any() or len(np.unique(labels)) < 2:
        raise UserError(
            "the protocol needs at least two classes and two training clips of some class to hold out; "
            f"the train split has {len(labels)} clips of {len(np.unique(labels))} classes"
        )
    return held_out


def _take(windows: Windows, rows: NDArray[np.bool_]) -> Windows:
    return Windows(windows.features[rows], windows.clip[rows])


def decide(
    train: Windows, labels: Ints, test: Windows, test_clips: int, classes: int, cost: float, seed: int
) -> Rows:
    """Fit on training windows, each a row of its own; decide on test clips by the mean over their windows.

    Args:
        train: features of the training windows.
        labels: (training clips,) the class of each clip, indexed by ``train.clip``.
        test: features of the test windows.
        test_clips: number of test clips, indexed by ``test.clip``.
        classes: number of classes.
        cost: C.
        seed: of the solver.

    Returns:
        (test_clips, classes). A class absent from training gets minus infinity. Clips without a window among
        `test` get NaN.
    """
    machine = LinearSVC(C=cost, max_iter=1000, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the protocol fixes max_iter
        machine.fit(train.features, labels[train.clip])
    window_decisions = machine.decision_function(test.features)
    if window_decisions.ndim == 1:  # scikit-learn folds two classes into one column
        window_decisions = np.stack([-window_decisions, window_decisions], axis=1)
    decisions = np.full((test_clips, classes), -np.inf)
    decisions[:, machine.classes_] = mean_by_clip(window_decisions, test.clip, test_clips)
    return decisions


def mean_by_clip(values: Rows, clip: Ints, clips: int) -> Rows:
    """The mean over each clip's windows: (rows, D) → (clips, D); NaN for a clip without any."""
    sums = np.zeros((clips, values.shape[1]))
    np.add.at(sums, clip, values)
    with np.errstate(invalid="ignore"):
        means: Rows = sums / np.bincount(clip, minlength=clips)[:, None]
    return means
