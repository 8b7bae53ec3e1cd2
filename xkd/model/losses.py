"""Domain alignment and cross-modal distillation (Equations 7 to 11, sections B.5, B.7)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

KERNEL_GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two sets of rows under Gaussian kernels (Equation 8).

    ``mean K(x,x) + mean K(y,y) - 2 mean K(x,y)``, diagonals included, K the sum over `KERNEL_GAMMAS` of
    ``exp(-gamma d)`` and d the squared distance; x is (n, K) and y (m, K).
    """
    # Rows are wide and similar, and gamma reaches 1000, so rounding in d would dominate the gradient:
    # subtract the mean row, on which d does not depend, use float32 or better, and make d(x, x) exactly 0.
    x, y = at_least_float32(x), at_least_float32(y)
    with torch.autocast(x.device.type, enabled=False):
        mean = torch.cat([x, y]).mean(dim=0).detach()
        x, y = x - mean, y - mean
        return _mean_self_kernel(x) + _mean_self_kernel(y) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    squared = x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * x @ y.T
    distance = squared.clamp_min(1e-30)
    return torch.stack([torch.exp(-gamma * distance) for gamma in KERNEL_GAMMAS]).sum(dim=0)


def _mean_self_kernel(x: Tensor) -> Tensor:
    rows = len(x)
    off_diagonal = _kernel(x, x) * (1 - torch.eye(rows, dtype=x.dtype, device=x.device))
    return (off_diagonal.sum() + rows * len(KERNEL_GAMMAS)) / rows**2


class Distillation(NamedTuple):
    """The distillation of one teacher into the student of the other modality."""

    kd: Tensor
    """Cross-entropy of the student under the teacher: the loss (Equation 11)."""
    kld: Tensor
    """KL(teacher || student): tracked, not optimized; kd = entropy + kld."""
    entropy: Tensor
    """Mean entropy of the teacher's distributions; ln K when they are uniform."""
    mean_distribution: Tensor
    """(K,) mean of the teacher's distributions."""


def distill(
    student: Tensor, teacher: Tensor, center: Tensor, student_temperature: float, teacher_temperature: float
) -> Distillation:
    """Distill one teacher into the student of the other modality (Equations 9 to 11).

    Args:
        student: (V B, K) projector outputs of V views, view-major.
        teacher: (B, K) projector outputs of the other modality's teacher.
        center: (K,) running mean of the teacher's outputs.
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    with torch.autocast(student.device.type, enabled=False):
        log_target = torch.log_softmax((teacher - center) / teacher_temperature, dim=-1).detach()
        target = log_target.exp()
        log_student = torch.log_softmax(student / student_temperature, dim=-1)
        views = log_student.reshape(-1, *target.shape)
        kd = -(target * views).sum(dim=-1).mean()
        entropy = -(target * log_target).sum(dim=-1).mean()
    return Distillation(kd, kd.detach() - entropy, entropy, target.mean(dim=0))


def update_center(center: Tensor, teacher_mean: Tensor, momentum: float) -> Tensor:
    """Return the center (K,) after a step: the moving average of the teacher's mean output (B.5)."""
    return center * momentum + teacher_mean * (1 - momentum)


def at_least_float32(x: Tensor) -> Tensor:
    """Return half-precision values in float32."""
    return x if x.dtype == torch.float64 else x.float()
