from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.svm import LinearSVC

from xkd.errors import UserError
from xkd.evaluation.protocols import svm_solver
from xkd.evaluation.protocols.svm_solver import OneVsRest, Rows, fit

CPU = torch.device("cpu")
CLASSES = 4


def problem(seed: int, rows: int = 150) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Ill-conditioned features: columns are correlated, their scales differ 1000-fold, all share a mean."""
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(5, 40))
    targets = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, rows - CLASSES)])
    latent = 0.5 * rng.normal(size=(CLASSES, dim))[targets] + rng.normal(size=(rows, dim))
    features = 3 + latent @ (rng.normal(size=(dim, dim)) * np.logspace(0, -3, dim))
    return features.astype(np.float32), targets


def outputs(weights: NDArray[np.float64], features: NDArray[Any]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = features.astype(np.float64) @ weights[:, :-1].T + weights[:, -1]
    return result


def objective(
    weights: NDArray[np.float64], features: NDArray[Any], targets: NDArray[Any], cost: float
) -> NDArray[np.float64]:
    """The equation, for each class."""
    y = np.where(targets[:, None] == np.arange(len(weights)), 1, -1)
    slack = np.maximum(0, 1 - y * outputs(weights, features))
    result: NDArray[np.float64] = (weights**2).sum(axis=1) / 2 + cost * (slack**2).sum(axis=0)
    return result


def reference(features: NDArray[Any], targets: NDArray[Any], cost: float) -> NDArray[np.float64]:
    """scikit-learn's weights, close to the minimum."""
    machine = LinearSVC(C=cost, dual=False, tol=1e-8, max_iter=100_000)
    machine.fit(features.astype(np.float64), targets)
    return np.column_stack([machine.coef_, machine.intercept_])


def assert_same_minimum(
    weights: NDArray[np.float64], features: NDArray[Any], targets: NDArray[Any], cost: float
) -> None:
    expected = reference(features, targets, cost)
    found, lowest = (objective(w, features, targets, cost) for w in (weights, expected))
    np.testing.assert_allclose(found, lowest, rtol=1e-4)
    ours, theirs = (outputs(w, features).argmax(axis=1) for w in (weights, expected))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("seed", range(10))
def test_minima_and_predictions_are_those_of_scikit_learn(seed: int) -> None:
    features, targets = problem(seed)
    for cost, weights in fit(features, targets, CLASSES, [1e-4, 1e-2, 1.0], CPU).items():
        assert_same_minimum(weights, features, targets, cost)


def test_a_class_of_one_row_is_fitted() -> None:
    features, targets = problem(0)
    targets = np.where(targets == 3, 0, targets)
    targets[17] = 3
    for cost, weights in fit(features, targets, CLASSES, [1e-2, 1.0], CPU).items():
        assert_same_minimum(weights, features, targets, cost)


def test_a_cost_that_starts_at_the_last_one_has_the_minimum_of_a_cost_alone() -> None:
    features, targets = problem(1)
    sweep = fit(features, targets, CLASSES, [1.0, 1e-4, 1e-2], CPU)
    assert list(sweep) == [1.0, 1e-4, 1e-2]
    for cost, weights in sweep.items():
        alone = fit(features, targets, CLASSES, [cost], CPU)[cost]
        found, expected = (objective(w, features, targets, cost) for w in (weights, alone))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("work", [0, svm_solver.CHOLESKY_WORK, 1e9])
def test_blocks_of_rows_have_the_minimum_of_all_rows(monkeypatch: pytest.MonkeyPatch, work: float) -> None:
    """By conjugate gradients alone, by both, and by Cholesky factors alone."""
    monkeypatch.setattr(svm_solver, "CHOLESKY_WORK", work)
    features, targets = problem(2)
    found = []
    for block_rows in (7, len(features)):
        machines = OneVsRest(
            Rows(features, CPU, block_rows), torch.from_numpy(targets), torch.arange(CLASSES)
        )
        assert machines.minimize(0.1) == 0
        found.append(objective(machines.weights.numpy(), features, targets, 0.1))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_groups_of_classes_have_the_weights_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = problem(3)
    expected = fit(features, targets, CLASSES, [0.1], CPU)[0.1]
    monkeypatch.setattr(svm_solver, "GROUP_SIZE", 3 * len(features))
    np.testing.assert_allclose(fit(features, targets, CLASSES, [0.1], CPU)[0.1], expected, atol=1e-4)


def test_memory_mapped_features_in_half_precision_are_converted_by_block(tmp_path: Path) -> None:
    features, targets = problem(4)
    np.save(tmp_path / "features.npy", features.astype(np.float16))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    expected = fit(mapped.astype(np.float32), targets, CLASSES, [0.1], CPU)[0.1]
    np.testing.assert_array_equal(fit(mapped, targets, CLASSES, [0.1], CPU)[0.1], expected)


def test_classes_that_have_not_converged_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    features, targets = problem(5)
    monkeypatch.setattr(svm_solver, "NEWTON_STEPS", 1)
    fit(features, targets, CLASSES, [1e-9, 1.0], CPU)
    warned = [line for line in capsys.readouterr().err.splitlines() if "converged" in line]
    assert warned == ["xkd: SVM with C 1: 4 of 4 classes have not converged after 1 Newton steps"]


def test_two_classes_are_one_problem() -> None:
    features, targets = problem(6)
    weights = fit(features, targets % 2, 2, [0.1], CPU)[0.1]
    np.testing.assert_allclose(weights, reference(features, targets % 2, 0.1), atol=1e-3)


def test_features_that_are_not_finite_are_an_error() -> None:
    features, targets = problem(7)
    features[3, 1] = np.nan
    with pytest.raises(UserError, match="the features of the SVM are not finite"):
        fit(features, targets, CLASSES, [0.1], CPU)
