"""Signals of a collapse that are not terms of the objective (section B.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from xkd.model.terms import BATCH_ENTROPY, DIRECTIONS, INFORMATION, TEACHER_ENTROPY


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of one distribution (K,), in nats."""
    return -(probabilities * probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()).sum()


def information(row: Mapping[str, float]) -> dict[str, float]:
    """Return each teacher's information: the mutual information between clip and output, in nats.

    It is the entropy of the batch's mean distribution minus the mean entropy: 0 when every clip has the same
    distribution, ln(batch size) when no two clips share an output.
    """
    return {
        INFORMATION[d]: row[BATCH_ENTROPY[d]] - row[TEACHER_ENTROPY[d]]
        for d in DIRECTIONS
        if BATCH_ENTROPY[d] in row
    }


def spread(features: Tensor) -> Tensor:
    """Return the spread of features (B, D): 0 if all have one direction, 1 if they have all directions alike.

    It is the standard deviation of the normalized rows, averaged over dimensions, times sqrt(D).
    """
    rows = F.normalize(features.double(), dim=-1)
    return rows.std(dim=0, correction=0).mean() * math.sqrt(features.shape[1])


def effective_rank(features: Tensor) -> Tensor:
    """Return the effective rank of centered rows (B, D): exp of the entropy of normalized singular values.

    Between 1, if all lie on one line, and min(B - 1, D); NaN if a feature is not finite.
    """
    finite = features.double().nan_to_num(0, 0, 0)
    rows = finite - finite.mean(dim=0)
    small = rows if len(rows) > rows.shape[1] else rows.T
    values = torch.linalg.eigvalsh(small.T @ small).clamp_min(0).sqrt()
    rank = entropy(values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)).exp()
    return torch.where(features.isfinite().all(), rank, torch.nan)
