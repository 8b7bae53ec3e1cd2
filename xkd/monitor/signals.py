"""Numbers that show a collapse and are no terms of the objective (section B.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from xkd.model.terms import DIRECTIONS


def entropy(probabilities: Tensor) -> Tensor:
    """Of one distribution (K,), in nats."""
    return -(probabilities * probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()).sum()


def information(row: Mapping[str, float]) -> dict[str, float]:
    """What each teacher's output tells of the clip, in nats: the mutual information of clip and output.

    The entropy of the batch's mean distribution less the mean entropy; 0 when every clip has the same
    distribution, ln of the clips when each has outputs of its own.
    """
    return {
        f"information_{d}": row[f"batch_entropy_{d}"] - row[f"teacher_entropy_{d}"]
        for d in DIRECTIONS
        if f"batch_entropy_{d}" in row
    }


def spread(features: Tensor) -> Tensor:
    """How far features (B, D) are spread: 0 if all have one direction, 1 if they have every direction alike.

    The standard deviation of the normalized rows, a mean over dimensions, times sqrt(D).
    """
    rows = F.normalize(features.double(), dim=-1)
    return rows.std(dim=0, correction=0).mean() * math.sqrt(features.shape[1])


def effective_rank(features: Tensor) -> Tensor:
    """In how many directions the rows (B, D) differ: exp of the entropy of their singular values' shares.

    Between 1, if all lie on one line, and min(B - 1, D); NaN if a feature is not finite.
    """
    known = features.double().nan_to_num(0, 0, 0)
    rows = known - known.mean(dim=0)
    small = rows if len(rows) > rows.shape[1] else rows.T
    values = torch.linalg.eigvalsh(small.T @ small).clamp_min(0).sqrt()
    rank = entropy(values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)).exp()
    return torch.where(features.isfinite().all(), rank, torch.nan)
