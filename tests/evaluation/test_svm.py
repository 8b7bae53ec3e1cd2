from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.svm import LinearSVC

from xkd.errors import UserError
from xkd.evaluation.features import ClipFeatures
from xkd.evaluation.metrics import top_k
from xkd.evaluation.plan import make_task
from xkd.evaluation.protocols import svm
from xkd.evaluation.protocols.svm import COSTS, choose_cost, choose_fit, fit_and_predict
from xkd.evaluation.score import Solver
from xkd.evaluation.splits import VALIDATION_SHARE, validation_mask

CLASSES = 4


def windows(labels: NDArray[Any], count: int, noise: float, seed: int) -> ClipFeatures:
    """Features around a center per class that share a large mean, as encoders' do."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(CLASSES, 12))
    clip = np.repeat(np.arange(len(labels)), count)
    features = 3 + centers[labels[clip]] + noise * rng.normal(size=(len(clip), 12))
    return ClipFeatures(features.astype(np.float32), clip, len(labels))


class Result(NamedTuple):
    predictions: NDArray[Any]
    cost: float
    sweep: dict[float, float]


def probe(
    train: ClipFeatures,
    labels: NDArray[Any],
    test: ClipFeatures,
    classes: int,
    seed: int,
    costs: Sequence[float] = COSTS,
    solver: Solver = "torch",
) -> Result:
    """The whole protocol on one fold."""
    fit = choose_fit(solver, torch.device("cpu"))
    cost, sweep = choose_cost(train, labels, classes, seed, fit, costs)
    return Result(fit_and_predict(train, labels, test, classes, cost, fit), cost, sweep)


def test_separable_classes_are_learned() -> None:
    labels = np.tile(np.arange(CLASSES), 15)
    result = probe(windows(labels, 3, 0.3, 0), labels, windows(labels, 2, 0.3, 1), CLASSES, seed=0)
    assert top_k(result.predictions, labels, 1) > 0.95
    assert set(result.sweep) == set(COSTS)
    assert result.sweep[result.cost] == max(result.sweep.values())


def test_the_cost_is_chosen_without_test_rows() -> None:
    """Plant the training windows as test windows under wrong labels.

    Choosing C by the test score would now take the worst fit; the choice must not change.
    """
    labels = np.tile(np.arange(CLASSES), 15)
    train, honest = windows(labels, 3, 1.0, 0), windows(labels, 3, 1.0, 1)
    wrong = (labels + 1) % CLASSES
    fair = probe(train, labels, honest, CLASSES, seed=0)
    planted = probe(train, labels, train, CLASSES, seed=0)
    assert (planted.cost, planted.sweep) == (fair.cost, fair.sweep)
    seen = {
        cost: top_k(once.predictions, wrong, 1)
        for cost in COSTS
        if (once := probe(train, labels, train, CLASSES, seed=0, costs=[cost]))
    }
    assert seen[fair.cost] < max(seen.values()), "the planted rows do not change the best C"


def test_all_windows_of_a_clip_are_on_one_side_of_the_validation_split() -> None:
    """Each clip has a fingerprint that all its windows share and that is independent of its class.

    If windows were split instead of clips, the fingerprint alone would score high in the sweep.
    """
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.tile(np.arange(CLASSES), 20))
    clip = np.repeat(np.arange(len(labels)), 5)
    fingerprints = rng.normal(size=(len(labels), 200))
    train = ClipFeatures(fingerprints[clip] + 0.01 * rng.normal(size=(len(clip), 200)), clip, len(labels))
    result = probe(train, labels, train, CLASSES, seed=0)
    assert max(result.sweep.values()) < 0.6
    assert top_k(result.predictions, labels, 1) > 0.95  # a split by windows would score this


def test_the_validation_part_is_stratified_and_never_takes_a_whole_class() -> None:
    labels = np.array([0] * 20 + [1] * 10 + [2] * 2 + [3])
    held_out = validation_mask(labels, seed=0)
    counts = [int(held_out[labels == label].sum()) for label in range(4)]
    assert counts == [round(20 * VALIDATION_SHARE), round(10 * VALIDATION_SHARE), 1, 0]
    assert np.array_equal(held_out, validation_mask(labels, seed=0))
    assert not np.array_equal(held_out, validation_mask(labels, seed=1))


@pytest.mark.parametrize("solver", ["torch", "sklearn"])
def test_a_prediction_is_the_mean_decision_over_the_windows(solver: Solver) -> None:
    labels = np.tile(np.arange(CLASSES), 10)
    train, test = windows(labels, 2, 0.5, 0), windows(labels, 3, 0.5, 1)
    result = probe(train, labels, test, CLASSES, seed=7, costs=[0.1], solver=solver)
    machine = LinearSVC(C=0.1, dual=False, tol=1e-8).fit(train.features, labels[train.clip])
    expected = machine.decision_function(test.features).reshape(len(labels), 3, CLASSES).mean(axis=1)
    np.testing.assert_allclose(result.predictions, expected, atol=2e-3)


def test_scikit_learn_reports_that_it_has_not_converged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(svm, "MAX_ITERATIONS", 1)
    labels = np.tile(np.arange(CLASSES), 10)
    train = windows(labels, 2, 0.5, 0)
    fit_and_predict(train, labels, train, CLASSES, 1.0, choose_fit("sklearn", torch.device("cpu")))
    said = "SVM with C 1: at least one of 4 classes has not converged after 1 iterations"
    assert said in capsys.readouterr().err


def test_another_solver_is_another_score() -> None:
    def solver(protocol: str, **settings: str) -> object:
        return make_task("kinetics400", "video", protocol, "raw", settings=settings).identity["solver"]

    assert solver("svm") == "torch"
    assert solver("svm", solver="sklearn") == "sklearn"
    assert solver("fc") == ""
    with pytest.raises(UserError, match="solver"):
        solver("svm", solver="libsvm")
    with pytest.raises(UserError, match="protocol fc has no setting solver"):
        solver("fc", solver="sklearn")


def test_two_classes_have_two_columns() -> None:
    labels = np.tile([0, 1], 10)
    result = probe(windows(labels, 2, 0.1, 0), labels, windows(labels, 2, 0.1, 1), 2, seed=0)
    assert result.predictions.shape == (20, 2)
    assert top_k(result.predictions, labels, 1) == 1


def test_a_class_absent_from_training_is_never_predicted() -> None:
    labels = np.tile([0, 2], 10)
    result = probe(windows(labels, 2, 0.1, 0), labels, windows(labels, 2, 0.1, 1), 4, seed=0)
    assert set(result.predictions.argmax(axis=1)) <= {0, 2}


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0]])
def test_too_few_clips_for_validation_are_an_error(labels: list[int]) -> None:
    with pytest.raises(UserError, match="at least two classes, one of them with two training clips"):
        validation_mask(np.array(labels), seed=0)
