"""Exported encoders, read back by ONNX Runtime, torch and the Hub's library, and their model cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from huggingface_hub import ModelCard
from onnxruntime import InferenceSession
from torch import Tensor
from typer.testing import CliRunner

import xkd
from tests.report.synthetic import ONE_HOT, write_run, write_scores
from tests.tiny import tiny_config
from xkd.cli import app
from xkd.config import MODALITIES, Modality
from xkd.config.overrides import to_dict, to_yaml
from xkd.config.presets import get_preset
from xkd.errors import UserError
from xkd.export.export import TOLERANCE, ExportError, export, largest_difference
from xkd.export.module import ExportedEncoder, input_shape, random_clips
from xkd.rundir import RunDir
from xkd.weights import PretrainedEncoder, read_weights, save_encoder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "mine", get_preset("toy"), rows=2)
    write_scores(folder / "scores", folder)
    return folder


def of_preset(name: str, modality: Modality, out: Path) -> Path:
    """Write a run of a preset with one newly initialized encoder."""
    run, config = RunDir(out), get_preset(name)
    torch.manual_seed(0)
    encoder = PretrainedEncoder(config, modality)
    save_encoder(encoder.state_dict(), config, modality, run.encoder("teacher", modality))
    run.config_file.write_text(to_yaml(config))
    return out


def expected(encoder: PretrainedEncoder, clips: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        tokens = encoder(torch.cat([encoder.transform(clip) for clip in clips]))
        return [tokens, encoder.pool(tokens)]


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_front_end_and_the_encoder_in_one_module_give_what_the_encoder_gives(
    run: Path, modality: Modality
) -> None:
    encoder = xkd.load(RunDir(run).encoder("teacher", modality))
    assert largest_difference(encoder, ExportedEncoder(encoder)) < 1e-5


def test_a_difference_that_is_no_number_is_one(run: Path) -> None:
    encoder = xkd.load(RunDir(run).encoder("teacher", "audio"))

    def broken(clips: Tensor) -> tuple[Tensor, ...]:
        tokens, features = expected(encoder, clips)
        features[-1, -1] = torch.nan
        return tokens, features

    assert np.isnan(largest_difference(encoder, broken))


@pytest.mark.system
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("preset", ["toy", "paper"])
def test_onnx_runtime_gives_what_the_encoder_gives(preset: str, modality: Modality, tmp_path: Path) -> None:
    run = of_preset(preset, modality, tmp_path / "run")
    exported = export(run, modality, tmp_path / "out" / "encoder.onnx")
    assert exported.difference is not None
    assert exported.difference < TOLERANCE
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "encoder.onnx"]
    encoder = xkd.load(RunDir(run).encoder("teacher", modality))
    session = InferenceSession(exported.file)
    (given,) = session.get_inputs()
    assert given.shape == ["batch", *input_shape(encoder)]
    clips = random_clips(encoder, 3)
    found = session.run(["tokens", "features"], {given.name: clips.numpy()})
    for ours, theirs in zip(expected(encoder, clips), found, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=TOLERANCE)
    stored = json.loads(session.get_modelmeta().custom_metadata_map["xkd"])
    assert stored == {"modality": modality, "role": "teacher", "config": to_dict(encoder.config)}
    onnx.checker.check_model(exported.file, full_check=True)


@pytest.mark.system
@pytest.mark.parametrize("modality", MODALITIES)
def test_torch_export_gives_what_the_encoder_gives(run: Path, modality: Modality, tmp_path: Path) -> None:
    exported = export(run, modality, tmp_path / "encoder.pt2", "torch-export", "student")
    encoder = xkd.load(RunDir(run).encoder("student", modality))
    facts: dict[str, Any] = {"xkd.json": ""}
    program = torch.export.load(exported.file, extra_files=facts).module()
    assert json.loads(facts["xkd.json"])["role"] == "student"
    for count in (1, 4):
        clips = random_clips(encoder, count)
        for ours, theirs in zip(expected(encoder, clips), program(clips), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=TOLERANCE)


@pytest.mark.system
def test_a_tone_in_silence_differs_by_no_more_than_float32_does(run: Path, tmp_path: Path) -> None:
    encoder = xkd.load(RunDir(run).encoder("teacher", "audio"))
    session = InferenceSession(export(run, "audio", tmp_path / "encoder.onnx").file)
    time = torch.arange(encoder.config.clip.window_samples) / encoder.config.clip.sample_rate
    tones = torch.stack([0.9 * torch.sin(2 * torch.pi * pitch * time) for pitch in (440.0, 1234.5)])
    found = session.run(["tokens", "features"], {"waveform": tones.numpy()})
    for ours, theirs in zip(expected(encoder, tones), found, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=2 * TOLERANCE)


@pytest.mark.system
def test_an_encoder_that_is_exported_wrongly_is_an_error_and_leaves_no_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xkd.export.export.TOLERANCE", 0.0)
    with pytest.raises(
        ExportError, match=r"differs from the encoder by up to .*, more than 0; nothing was written"
    ):
        export(run, "video", tmp_path / "encoder.pt2", "torch-export")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_safetensors_is_loaded_and_has_a_card_of_the_hub(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine-audio"
    arguments = ["export", "--run", run, "--modality", "audio", "--format", "safetensors", "--out", out]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.output == f"{out}/model.safetensors\n{out}/README.md\n"
    encoder, clips = xkd.load(out), torch.zeros(2, 64000)
    for ours, theirs in zip(
        expected(xkd.load(RunDir(run).encoder("teacher", "audio")), clips),
        expected(encoder, clips),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    assert json.loads((out / "config.json").read_text())["config"] == to_dict(encoder.config)
    card = ModelCard.load(out / "README.md")
    assert card.data.to_dict() == {
        "library_name": "xkd",
        "license": "unknown",
        "pipeline_tag": "feature-extraction",
        "tags": ["xkd", "audio", "self-supervised-learning", "masked-autoencoder", "knowledge-distillation"],
    }
    code = card.text.partition("```python\n")[2].partition("```")[0]
    subprocess.run(
        [sys.executable, "-c", f"import torch; waveform = torch.zeros(64000)\n{code}"],
        cwd=tmp_path,
        check=True,
    )


def test_a_card_has_the_data_the_settings_the_commit_the_scores_and_the_verdict(
    tmp_path: Path,
) -> None:
    config = get_preset("toy")
    server = replace(config.run, mlflow="https://mlflow.internal")
    changed = replace(config, optim=replace(config.optim, lr=2e-3), run=server)
    run = write_run(tmp_path / "mine", changed, rows=2)
    write_scores(run / "scores", run)
    text = export(run, "video", tmp_path / "out", "safetensors").card.read_text()
    for words in (
        "# mine: video encoder (teacher)",
        "**healthy**: KD and KLD stay away from zero",
        "- Pretrained on: embedded, revision 5f0c2a9be1d4",
        "- Settings that differ from the preset: optim.lr 0.002 (preset 0.001)",
        "- Commit, pretraining: 0123456789abcdef0123456789abcdef01234567",
        "| Teacher | 52.0 (+31.0) |",
        "| Random initialization | 21.0 |",
        "| Chance | 10.0 |",
        "## License of the data\n\nTo be filled in",
    ):
        assert words in text, words
    assert b"mlflow.internal" not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_a_card_says_that_a_run_collapsed_or_was_not_evaluated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", tiny_config(), ONE_HOT, rows=2)
    text = export(run, "video", tmp_path / "out", "safetensors").card.read_text()
    assert "**one_hot**: KD video_to_audio fell to 0.001" in text
    assert "The encoder was not evaluated." in text


def test_a_card_of_imported_weights_says_what_is_known(tmp_path: Path) -> None:
    run = of_preset("toy", "video", tmp_path / "run")
    text = export(run, "video", tmp_path / "out", "safetensors").card.read_text()
    assert "None: the weights were imported." in text
    assert "- Preset: toy" in text


def test_another_readme_is_never_replaced(run: Path, tmp_path: Path) -> None:
    first = export(run, "video", tmp_path, "safetensors")
    assert export(run, "video", tmp_path, "safetensors") == first  # the same card again
    with pytest.raises(UserError, match=r"README.md exists and is not this encoder's card; use a folder"):
        export(run, "audio", tmp_path, "safetensors")
    _, facts = read_weights(first.file)
    assert facts["modality"] == "video"


def test_what_cannot_be_exported_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} is a directory; give a file in it"):
        export(run, "video", tmp_path)
    with pytest.raises(UserError, match="no run in"):
        export(tmp_path / "none", "video", tmp_path / "a.onnx")
    only_video = of_preset("toy", "video", tmp_path / "run")
    with pytest.raises(UserError, match=r"no encoder at .*teacher_audio.safetensors; a finished run has"):
        export(only_video, "audio", tmp_path / "a.onnx")


def test_without_onnx_the_error_names_the_extra(run: Path, tmp_path: Path) -> None:
    (tmp_path / "onnxscript.py").write_text("raise ModuleNotFoundError(name='onnxscript')")
    code = "from xkd.cli import main; main()"
    arguments = ["export", "--run", str(run), "--modality", "video", "--out", str(tmp_path / "a.onnx")]
    command = [sys.executable, "-c", code, *arguments]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "xkd: --format onnx needs onnxscript: pip install 'xkd[export]'\n"
