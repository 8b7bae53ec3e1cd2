"""The collapse signals, on cases with known answers."""

from __future__ import annotations

import math

import pytest
import torch

from xkd.model.terms import BATCH_ENTROPY, INFORMATION, TEACHER_ENTROPY
from xkd.monitor.signals import effective_rank, entropy, information, spread


def test_entropy_of_one_hot_uniform_and_intermediate_distributions() -> None:
    assert entropy(torch.tensor([0.0, 1.0, 0.0])).item() == 0
    assert entropy(torch.full((8,), 1 / 8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([0.5, 0.25, 0.25])).item() == pytest.approx(1.5 * math.log(2))


def test_information_is_the_difference_of_the_two_entropies() -> None:
    d = "video_to_audio"
    assert information({BATCH_ENTROPY[d]: 3.0, TEACHER_ENTROPY[d]: 1.0}) == {INFORMATION[d]: 2.0}
    assert information({"loss": 1.0}) == {}


@pytest.mark.parametrize("rows", [16, 200])
def test_effective_rank_counts_the_directions_of_variation(rows: int) -> None:
    """Rows of a subspace, more or fewer than columns; a common offset is not a direction."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 5)).Q
    features = torch.randn(rows, 5) @ basis.T + 10 * torch.randn(64)
    assert 3.5 < effective_rank(features).item() <= 5.001
    orthogonal = torch.cat([torch.eye(8), -torch.eye(8)])
    assert effective_rank(orthogonal).item() == pytest.approx(8)
    assert effective_rank(torch.arange(8.0)[:, None] * torch.randn(64)).item() == pytest.approx(1, abs=1e-3)


def test_collapsed_features_have_no_spread_and_no_rank() -> None:
    same = torch.randn(1, 64).expand(16, 64)
    assert spread(same).item() == pytest.approx(0, abs=1e-6)
    assert effective_rank(same).item() == pytest.approx(1, abs=1e-3)
    torch.manual_seed(0)
    assert spread(torch.randn(4000, 64)).item() == pytest.approx(1, abs=0.02)


def test_the_rank_of_non_finite_features_is_nan() -> None:
    features = torch.randn(4, 8)
    features[1, 2] = math.inf
    assert math.isnan(effective_rank(features).item())
