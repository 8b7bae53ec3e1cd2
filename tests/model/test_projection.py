"""Projectors for retrieval: what they compare, and that a run publishes them."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import tiny_config, zero_centers
from xkd.config import MODALITIES, ProjectorConfig
from xkd.data.datasets.training import TrainingClips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.reader import WindowReader
from xkd.data.transforms.views import Views, center_crop
from xkd.errors import UserError
from xkd.model.projector import Projection, share_basis
from xkd.model.xkd import XKD
from xkd.rundir import ROLES, RunDir
from xkd.train.publish import Centers, mean_outputs, save_encoders
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


def test_a_run_publishes_projectors_with_their_centers(tmp_path: Path) -> None:
    model = XKD(tiny_config())
    centers: Centers = {role: {m: torch.randn(64) for m in MODALITIES} for role in ROLES}
    save_encoders(model, RunDir(tmp_path), centers)
    pooled = torch.randn(5, 32)
    for role in ROLES:
        projections = load_projections(tmp_path, role)
        found, expected = [], []
        for m in MODALITIES:
            outputs = getattr(model, role)[m].projector(pooled) - centers[role][m]
            expected.append(F.normalize(outputs, dim=-1))
            found.append(projections[m](pooled))
        across, wanted = found[0] @ found[1].T, expected[0] @ expected[1].T
        torch.testing.assert_close(across, wanted, atol=1e-5, rtol=0)


def test_the_centers_are_means_over_the_training_clips_as_retrieval_sees_them(prepared: Path) -> None:
    model, training = XKD(tiny_config()), TrainingClips(PreparedDataset.open(prepared), tiny_config())
    centers = mean_outputs(model, training)
    reader, views = WindowReader(training.dataset, training.config), Views(training.config)
    windows = [reader.frames(clip, [0.0])[0] for clip in training.clips]
    view = views.plain({"frames": torch.stack([center_crop(frames, 32, 32) for frames in windows])})["video"]
    for role in ROLES:
        network = getattr(model, role)["video"]
        outputs = network.projector(network.encoder.pool(network.encoder(view)))
        torch.testing.assert_close(centers[role]["video"], outputs.mean(dim=0), atol=1e-5, rtol=0)


def test_clips_that_cannot_be_read_do_not_end_a_training_at_its_last_step(
    prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("xkd"), "propagate", True)
    shutil.copytree(prepared, tmp_path / "data")
    training = TrainingClips(PreparedDataset.open(tmp_path / "data"), tiny_config())
    for shard in (tmp_path / "data").rglob("*.tar"):
        os.truncate(shard, 0)
    centers = mean_outputs(XKD(tiny_config()), training)
    assert not centers["teacher"]["video"].any()
    assert "averaged over 0 clips only" in caplog.text


def test_a_run_without_projectors_is_one_line(tmp_path: Path) -> None:
    save_encoders(XKD(tiny_config()), RunDir(tmp_path), zero_centers(tiny_config()))
    RunDir(tmp_path).projector("student", "video").unlink()
    with pytest.raises(UserError, match=r"no projector at .*; runs of earlier versions") as caught:
        load_projections(tmp_path, "student")
    assert "\n" not in str(caught.value)
