"""Projectors for retrieval: what they compare, and that a run publishes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import tiny_config
from xkd.config import MODALITIES, ProjectorConfig
from xkd.errors import UserError
from xkd.model.projector import Projection, share_basis
from xkd.model.xkd import XKD
from xkd.rundir import ROLES, RunDir
from xkd.train.checkpoint import save_encoders
from xkd.weights import load_projections


@pytest.mark.parametrize("norm", ["none", "last", "all"])
def test_a_basis_keeps_every_cosine_in_fewer_dimensions(norm: str) -> None:
    size = ProjectorConfig(hidden_dim=24, bottleneck_dim=8, out_dim=64, norm=norm)  # type: ignore[arg-type]
    projections = {m: Projection(16, size) for m in MODALITIES}
    for projection in projections.values():
        projection.center.normal_()
    pooled = torch.randn(10, 16)
    before = torch.cat([projections[m](pooled) for m in MODALITIES])
    share_basis(projections.values())
    after = torch.cat([projections[m](pooled) for m in MODALITIES])
    assert (before.shape, after.shape) == ((20, 64), (20, 19))
    torch.testing.assert_close(after @ after.T, before @ before.T, atol=1e-5, rtol=0)


def test_without_fewer_dimensions_there_is_no_basis() -> None:
    projections = {
        m: Projection(8, ProjectorConfig(hidden_dim=8, bottleneck_dim=8, out_dim=16)) for m in "va"
    }
    share_basis(projections.values())
    assert all(projection.basis is None for projection in projections.values())


def test_a_run_publishes_projectors_with_the_centers_of_their_modality(tmp_path: Path) -> None:
    model = XKD(tiny_config())
    for m in MODALITIES:
        model.get_buffer(f"center_{m}").normal_()
    save_encoders(model, RunDir(tmp_path))
    pooled = torch.randn(5, 32)
    for role in ROLES:
        projections = load_projections(tmp_path, role)
        found, expected = [], []
        for m in MODALITIES:
            outputs = getattr(model, role)[m].projector(pooled) - model.get_buffer(f"center_{m}")
            expected.append(F.normalize(outputs, dim=-1))
            found.append(projections[m](pooled))
        across, wanted = found[0] @ found[1].T, expected[0] @ expected[1].T
        torch.testing.assert_close(across, wanted, atol=1e-5, rtol=0)


def test_a_run_without_projectors_is_one_line(tmp_path: Path) -> None:
    save_encoders(XKD(tiny_config()), RunDir(tmp_path))
    RunDir(tmp_path).projector("student", "video").unlink()
    with pytest.raises(UserError, match=r"no projector at .*; runs of earlier versions") as caught:
        load_projections(tmp_path, "student")
    assert "\n" not in str(caught.value)
