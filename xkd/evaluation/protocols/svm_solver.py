"""Linear SVMs, one versus rest, in the primal: all classes at once, by Newton's method.

Minimizes for each class, as LIBLINEAR's solver 2 and scikit-learn's `LinearSVC` do,

    f(w) = |w|² / 2 + C Σ max(0, 1 - y_i w·x_i)²,    y_i = 1 for the rows of the class, else -1,

where a last feature of ones makes the last weight an intercept, and stops at the same gradient. The Hessian
is I + 2C X'DX, where the diagonal D selects the active rows, those with a positive slack 1 - y w·x. Steps are
those of Keerthi and DeCoste ("A modified finite Newton method for fast solution of large scale linear SVMs",
JMLR 2005): the Newton equations, then a line search. Where few rows are active, the equations are
solved by a Cholesky factor; elsewhere for all classes together by conjugate gradients, since one product of X
with the vectors of all classes serves them all, with the Gram matrix X'X, scaled by the share of active rows,
in place of X'DX as the preconditioner.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xkd.errors import UserError
from xkd.log import get_logger
from xkd.progress import progress

_LOG = get_logger(__name__)
TOLERANCE = 1e-4
"""`LinearSVC`'s: of the gradient's norm, relative to that at zero and to the smaller side's share of rows."""
NEWTON_STEPS = 100
"""Limit per cost; five are usual."""
CG_STEPS, CG_TOLERANCE = 100, 0.1
"""Limit per Newton step, and the residual's norm by the preconditioner, relative to the first."""
LINE_STEPS, SLOPE_TOLERANCE = 20, 0.1
"""Limit per line search, and the slope relative to the first."""
CHOLESKY_WORK = 16
"""Steps of conjugate gradients that cost as much as a Cholesky factor (float64) of few active rows."""
BLOCK_ROWS = {"cpu": 1024, "cuda": 65536}
"""Rows of a product; on a CPU the block stays in the cache for the second product with it."""
GROUP_SIZE = 2**26
"""Rows times classes that are fitted together: 8 bytes each."""


def fit(
    features: NDArray[np.floating[Any]],
    targets: NDArray[np.integer[Any]],
    classes: int,
    costs: Sequence[float],
    device: torch.device,
) -> dict[float, NDArray[np.float64]]:
    """Fit every class against the rest at every cost, from the smallest on, each starting at the last.

    Args:
        features: (rows, D), may be memory-mapped; products are computed in float32.
        targets: (rows,), the class of each row.

    Returns:
        By cost: (classes, D + 1), the last column the intercepts; of two classes only the second's row.

    Raises:
        UserError: a feature is not finite.
    """
    rows = Rows(features, device)
    problems = torch.arange(classes, device=device)[1 if classes == 2 else 0 :]
    weights = {cost: rows.basis.new_zeros(len(problems), len(rows.basis)) for cost in costs}
    missed = dict.fromkeys(costs, 0)
    groups = torch.split(problems, max(1, GROUP_SIZE // len(features)))
    with progress("fitting SVMs", len(groups) * len(costs)) as bar:
        done = 0
        for group in groups:
            machines = OneVsRest(rows, torch.from_numpy(targets).to(device), group)
            for cost in sorted(costs):
                missed[cost] += machines.minimize(cost)
                weights[cost][done : done + len(group)] = machines.weights
                bar.advance()
            done += len(group)
    for cost, count in missed.items():
        if count:
            _LOG.warning(
                "SVM with C %g: %d of %d classes have not converged after %d Newton steps",
                *(cost, count, len(problems), NEWTON_STEPS),
            )
    return {cost: values.cpu().numpy() for cost, values in weights.items()}


class Rows:
    """Features in blocks of rows, and the eigenvectors of their Gram matrix."""

    def __init__(
        self, features: NDArray[np.floating[Any]], device: torch.device, block_rows: int = 0
    ) -> None:
        """Keep features (rows, D), on a GPU all of them; `block_rows` 0: those of the device."""
        with warnings.catch_warnings():  # they are only read
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.features = torch.from_numpy(features)
        if device.type != "cpu":
            self.features = self.features.to(device)
        self.count, dim = self.features.shape
        self._block_rows = block_rows or BLOCK_ROWS[device.type]
        gram = torch.zeros(dim + 1, dim + 1, dtype=torch.float64, device=device)
        for _, block in self.blocks():
            gram[:dim, :dim] += block.T @ block
            gram[dim, :dim] += block.sum(0)
        gram[:dim, dim] = gram[dim, :dim]
        gram[dim, dim] = self.count
        if not gram.isfinite().all():
            raise UserError("the features of the SVM are not finite; the encoder's weights may have diverged")
        self.spectrum, self.basis = torch.linalg.eigh(gram)
        self.spectrum.clamp_(min=0)

    def parts(self) -> Iterator[slice]:
        """Yield the rows of each block."""
        for begin in range(0, self.count, self._block_rows):
            yield slice(begin, min(self.count, begin + self._block_rows))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of rows, and their features in float32."""
        for part in self.parts():
            yield part, self.features[part].float()

    def select(self, chosen: Tensor) -> Tensor:
        """Return some rows in float64, a one behind each: (chosen, D + 1)."""
        features = self.features[chosen].double()
        return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


class OneVsRest:
    """The problems of some classes; the weights of one cost are where the next cost starts."""

    def __init__(self, rows: Rows, targets: Tensor, classes: Tensor) -> None:
        """Start with weights of zero for classes (K,), where `targets` has each row's class."""
        self._rows, self._targets, self._classes = rows, targets, classes
        self._all = torch.arange(len(classes), device=classes.device)
        self.weights = rows.basis.new_zeros(len(classes), len(rows.basis))
        """(K, D + 1), the last the intercept."""
        self._slack = torch.ones(len(classes), rows.count, device=classes.device)
        """1 - y w·x, (K, rows)."""
        counts = torch.stack([(targets == one).sum() for one in classes])
        smaller = torch.minimum(counts, rows.count - counts).clamp(min=1)
        self._tolerance = TOLERANCE * smaller / rows.count * self._loss_gradient(self._all).norm(dim=1)
        """Of the gradient's norm at a cost of 1, (K,)."""

    def minimize(self, cost: float) -> int:
        """Find the weights of a cost; return how many classes have not converged."""
        left = self._all
        for step in range(NEWTON_STEPS + 1):
            gradient = self.weights[left] + cost * self._loss_gradient(left)
            large = gradient.norm(dim=1) > cost * self._tolerance[left]
            gradient, left = gradient[large], left[large]
            if step == NEWTON_STEPS or not len(left):
                break
            self._move(left, self._newton_step(left, gradient, cost), gradient, cost)
        return len(left)

    def _signs(self, problems: Tensor, part: slice) -> Tensor:
        """Return y, (problems, rows)."""
        return torch.where(self._targets[part] == self._classes[problems, None], 1.0, -1.0)

    def _loss_gradient(self, problems: Tensor) -> Tensor:
        """Return the gradient of the sum of squared slacks, (problems, D + 1)."""
        result = torch.zeros_like(self.weights[problems])
        for part, block in self._rows.blocks():
            loss = self._slack[problems, part].clamp_(min=0)
            _add_product(result, loss.mul_(self._signs(problems, part)), block)
        return result.mul_(-2)

    def _curvature(self, problems: Tensor, vectors: Tensor) -> Tensor:
        """Return X'DX times a vector of each problem, (problems, D + 1)."""
        result, single = torch.zeros_like(vectors), vectors.float()
        for part, block in self._rows.blocks():
            _add_product(result, _outputs(single, block).mul_(self._slack[problems, part] > 0), block)
        return result

    def _newton_step(self, problems: Tensor, gradient: Tensor, cost: float) -> Tensor:
        """Solve the Newton equations, those of many active rows roughly: (problems, D + 1)."""
        active = torch.stack([(self._slack[one] > 0).sum() for one in problems])
        few = active * active.clamp(max=gradient.shape[1]) < CHOLESKY_WORK * self._rows.count
        step = torch.empty_like(gradient)
        for place in few.nonzero()[:, 0]:
            step[place] = self._solve(problems[place], gradient[place], cost)
        if not few.all():
            share = active[~few] / self._rows.count
            step[~few] = self._conjugate_gradients(problems[~few], gradient[~few], share, cost)
        return step

    def _solve(self, problem: Tensor, gradient: Tensor, cost: float) -> Tensor:
        """Return the Newton step of one problem from its active rows, by the smaller of two matrices."""
        rows = self._rows.select((self._slack[problem] > 0).nonzero()[:, 0])
        if len(rows) > rows.shape[1]:
            matrix = 2 * cost * rows.T @ rows
            matrix.diagonal().add_(1)
            return -_cholesky_solve(matrix, gradient)
        matrix = rows @ rows.T  # the Woodbury identity
        matrix.diagonal().add_(1 / (2 * cost))
        return rows.T @ _cholesky_solve(matrix, rows @ gradient) - gradient

    def _conjugate_gradients(self, problems: Tensor, gradient: Tensor, share: Tensor, cost: float) -> Tensor:
        """Return approximate Newton steps; `share` of the rows, (problems,), are active."""
        basis = self._rows.basis
        eigenvalues = 1 + 2 * cost * share[:, None] * self._rows.spectrum

        def precondition(vectors: Tensor) -> Tensor:
            return torch.matmul(vectors @ basis / eigenvalues[left], basis.T)

        left = torch.arange(len(problems), device=problems.device)
        result, residual = torch.zeros_like(gradient), -gradient
        vector = precondition(residual)
        norm = (residual * vector).sum(1)
        enough = CG_TOLERANCE**2 * norm
        for _ in range(CG_STEPS):
            image = vector + 2 * cost * self._curvature(problems[left], vector)
            length = (norm / (vector * image).sum(1))[:, None]
            result[left] += length * vector
            residual = residual - length * image
            conditioned = precondition(residual)
            before, norm = norm, (residual * conditioned).sum(1)
            vector = conditioned + (norm / before)[:, None] * vector
            more = norm > enough[left]
            left, vector, residual, norm = left[more], vector[more], residual[more], norm[more]
            if not len(left):
                break
        return result

    def _move(self, problems: Tensor, step: Tensor, gradient: Tensor, cost: float) -> None:
        """Move the weights along steps to the minimum of f."""
        parts, single = list(self._rows.parts()), step.float()
        rate = torch.empty(len(problems), self._rows.count, device=problems.device)
        """Change of the slack by a whole step."""
        for part, block in self._rows.blocks():
            rate[:, part] = _outputs(single, block).mul_(self._signs(problems, part)).neg_()
        inner, square = (self.weights[problems] * step).sum(1), step.square().sum(1)
        enough = SLOPE_TOLERANCE * (gradient * step).sum(1).abs()
        length, low, high = torch.ones_like(inner), torch.zeros_like(inner), torch.full_like(inner, torch.inf)
        left = torch.arange(len(problems), device=problems.device)
        for _ in range(LINE_STEPS):
            at = length[left]
            slope, curvature = inner[left] + at * square[left], square[left].clone()
            for part in parts:
                change = rate[left, part]
                slack = torch.addcmul(self._slack[problems[left], part], change, at[:, None].float())
                slope += 2 * cost * (slack.clamp(min=0) * change).sum(1)
                curvature += 2 * cost * (change.square_() * (slack > 0)).sum(1)
            more = slope.abs() > enough[left]
            left, at, slope, curvature = left[more], at[more], slope[more], curvature[more]
            if not len(left):
                break
            low[left] = torch.where(slope < 0, at, low[left])
            high[left] = torch.where(slope < 0, high[left], at)
            ahead = at - slope / curvature  # Newton's method; where that leaves the interval, bisection
            inside = (ahead > low[left]) & (ahead < high[left])
            length[left] = torch.where(inside, ahead, (low[left] + high[left]) / 2)
        self.weights[problems] += length[:, None] * step
        for part in parts:
            self._slack[problems, part] += length[:, None].float() * rate[:, part]


def _outputs(vectors: Tensor, block: Tensor) -> Tensor:
    """Return vectors (K, D + 1) times the rows of a block, a one behind each: (K, rows)."""
    return torch.addmm(vectors[:, -1:], vectors[:, :-1], block.T)


def _add_product(result: Tensor, factors: Tensor, block: Tensor) -> None:
    """Add (K, rows) times the rows of a block, a one behind each, to (K, D + 1)."""
    result[:, :-1] += factors @ block
    result[:, -1] += factors.sum(1)


def _cholesky_solve(matrix: Tensor, vector: Tensor) -> Tensor:
    """Solve a positive definite system."""
    return torch.cholesky_solve(vector[:, None], torch.linalg.cholesky(matrix))[:, 0]
