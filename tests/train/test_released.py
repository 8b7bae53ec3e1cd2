"""Import of released encoders: exact, with errors that name the problem."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import xkd
from tests.model.reference import SHORT, Reference
from xkd.config import MODALITIES, Modality
from xkd.errors import UserError
from xkd.report.tabulate import tabulate
from xkd.train.import_released import import_released

Files = dict[tuple[str, Modality], Path]


@pytest.fixture(scope="module")
def recorded(reference: Path) -> Reference:
    return Reference(reference, "xkd_released")


@pytest.fixture
def files(recorded: Reference, tmp_path: Path) -> Files:
    """The recorded networks' encoders as the authors' code saves them: state dicts in single precision."""
    written: Files = {}
    for m in MODALITIES:
        for role in ("teacher", "student"):
            prefix = f"state/{SHORT[m]}_{role}.backbone."
            weights = OrderedDict(
                (name.removeprefix(prefix), value.float())
                for name, value in recorded.values.items()
                if name.startswith(prefix)
            )
            path = tmp_path / f"XKD_pretext_kinetics400_ep800{SHORT[m]}_{role}.pth.tar"
            torch.save(weights, path)
            written[role, m] = path
    return written


def test_imported_encoders_give_the_recorded_features(
    reference: Path, recorded: Reference, files: Files, tmp_path: Path
) -> None:
    figures = load_file(reference / "evaluation.safetensors")
    run = tmp_path / "run"
    for m in MODALITIES:
        import_released([files["teacher", m], files["student", m]], m, recorded.config(), run)
    for role in ("teacher", "student"):
        for view in ("video_same", "video_double", "audio_same"):
            encoder = xkd.load(run / "encoders" / f"{role}_{view.partition('_')[0]}.safetensors")
            kind, _, size = view.partition("_")
            with torch.no_grad():
                features = encoder.pool(encoder(figures[f"in/{view}"]))
            expected = figures[f"out/{role}/{kind}_pool_{size}"]
            assert (features - expected).norm() / expected.norm() < 1e-5, (role, view)


def test_the_report_of_an_imported_run_says_that_it_is_one(
    recorded: Reference, files: Files, tmp_path: Path
) -> None:
    runs = [tmp_path / "run", tmp_path / "other"]
    for run in runs:
        import_released([files["teacher", "video"]], "video", recorded.config(), run)
    report = tabulate(runs[0], runs[0] / "scores", tmp_path / "report", compare=runs[1:]).read_text()
    tables = (tmp_path / "report" / "tables.md").read_text()
    for text in (report, tables):
        assert "trained elsewhere, and nothing is known of their training" in text
        assert "not evaluated yet" in text
        for wrong in ("nterrupted", "no encoders", "Neither healthy", "None", "has not finished"):
            assert wrong not in text
    assert "Run other was imported and is not evaluated yet." in tables
    assert json.loads((tmp_path / "report" / "scores.json").read_text())["state"] == "imported"


def test_invalid_files_are_one_line_errors(recorded: Reference, files: Files, tmp_path: Path) -> None:
    config, out = recorded.config(), tmp_path / "run"
    video = files["teacher", "video"]

    def refused(path: Path, match: str, modality: Modality = "video") -> None:
        with pytest.raises(UserError, match=match) as caught:
            import_released([path], modality, config, out)
        assert "\n" not in str(caught.value)

    def changed(change: dict[str, Tensor | None]) -> Path:
        weights = torch.load(video, weights_only=True) | change
        path = tmp_path / "changed_teacher.pth.tar"
        torch.save({name: value for name, value in weights.items() if value is not None}, path)
        return path

    refused(video, "holds a video encoder; give --modality video", "audio")
    refused(changed({"encoder_norm.bias": None}), "norm.bias is missing")
    refused(changed({"cls_token": torch.zeros(1, 1, 7)}), r"cls_token has shape \(1, 1, 7\)")
    refused(changed({"head.weight": torch.zeros(2)}), "head.weight is not part of a released encoder")
    for content, reason in ((b"not one", "Unsupported operand 110"), (b"", "EOFError")):
        (tmp_path / "junk_teacher.pth.tar").write_bytes(content)
        refused(tmp_path / "junk_teacher.pth.tar", f"not a weights file of torch, or is damaged: {reason}$")
    refused(tmp_path / "no_teacher.pth.tar", "No such file or directory$")
    refused(video.rename(tmp_path / "video.pth.tar"), "the name must contain teacher or student")
    torch.save({"model": {}, "epoch": 3}, tmp_path / "checkpoint_teacher.pth.tar")
    refused(tmp_path / "checkpoint_teacher.pth.tar", "is a training checkpoint")
    assert not out.exists()
