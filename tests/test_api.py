"""The public API: what ``import xkd`` offers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import xkd
import xkd.evaluation.plan
from tests.tiny import tiny_config
from xkd.config import MODALITIES
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.evaluation.evaluate import evaluate
from xkd.model.vit import build_encoder
from xkd.weights import PretrainedEncoder, read_weights, save_encoder, save_weights


def test_every_public_name_exists_and_importing_xkd_does_not_import_torch() -> None:
    for name in xkd.__all__:
        assert getattr(xkd, name) is not None
    code = "import sys, xkd; assert 'torch' not in sys.modules; xkd.get_preset('toy'); xkd.load"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_api_page_shows_every_name_with_its_signature() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text()
    for name in set(xkd.__all__) - {"__version__"}:
        value = getattr(xkd, name)
        signature = "" if isinstance(value, type) else str(inspect.signature(value))
        written = signature.replace("''", '""').replace("'", "")
        assert f"`xkd.{name}{written}`" in page


def test_evaluate_is_the_function_after_the_modules_of_evaluation_are_imported() -> None:
    assert xkd.evaluate is evaluate
    assert xkd.evaluation.plan.make_task is xkd.make_task


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    for m in MODALITIES:
        save_encoder(build_encoder(tiny_config(), m).state_dict(), tiny_config(), m, folder / m)
    return folder


def load(encoders: Path, modality: str) -> PretrainedEncoder:
    return xkd.load(encoders / modality)


def test_a_loaded_encoder_has_its_configuration_and_equal_weights(encoders: Path) -> None:
    encoder = load(encoders, "video")
    assert encoder.config == tiny_config()
    assert encoder.modality == "video"
    assert not encoder.training
    weights, _ = read_weights(encoders / "video")
    assert encoder.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())


def test_the_transform_gives_what_evaluation_sees(encoders: Path, prepared: Path) -> None:
    config, dataset = tiny_config(), PreparedDataset.open(prepared)
    clip = next(clip for clip in dataset.clips if clip.has("audio"))
    (batch,) = evaluation_batches(dataset, [clip], config, 1)
    expected = Views(config).plain(batch)
    frames, waveform = batch["frames"][0].permute(0, 2, 3, 1), batch["waveform"][0]
    video, audio = load(encoders, "video"), load(encoders, "audio")
    torch.testing.assert_close(video.transform(frames), expected["video"])
    torch.testing.assert_close(audio.transform(waveform), expected["audio"])
    assert video.pool(video(video.transform(frames))).shape == (1, 32)
    assert audio.pool(audio(audio.transform(waveform))).shape == (1, 32)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (90, 33), (32, 32)])
def test_frames_of_any_size_are_resized_and_cropped_to_the_global_view(
    encoders: Path, height: int, width: int
) -> None:
    frames = torch.zeros(32, height, width, 3, dtype=torch.uint8)
    assert load(encoders, "video").transform(frames).shape == (1, 3, 32, 32, 32)


def test_wrong_input_is_one_line_that_says_what_is_expected(encoders: Path) -> None:
    video, audio = load(encoders, "video"), load(encoders, "audio")
    with pytest.raises(UserError, match=r"expected uint8 frames \(32, H, W, 3\), 4 s at 8 fps; got torch\.f"):
        video.transform(torch.zeros(32, 8, 8, 3))
    with pytest.raises(UserError, match=r"expected a float waveform \(64000,\), 4 s at 16000 Hz"):
        audio.transform(torch.zeros(16000))


def test_files_that_are_not_encoders_are_refused(encoders: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"not one")
    with pytest.raises(UserError, match="not a safetensors file"):
        xkd.load(tmp_path / "other")
    with pytest.raises(UserError, match="no encoder at"):
        xkd.load(tmp_path / "missing")
    save_weights({}, {"classes": ["a"]}, tmp_path / "classifier")
    with pytest.raises(UserError, match="contains a classifier"):
        xkd.load(tmp_path / "classifier")
