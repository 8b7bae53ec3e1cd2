"""The public API: what ``import xkd`` offers."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import xkd
import xkd.evaluation.plan
from tests.data.films import SOUND, Video, write_film
from tests.evaluation.conftest import run as run
from tests.tiny import tiny_config
from xkd.config import MODALITIES
from xkd.data.datasets.direct import read_media
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.evaluation.evaluate import evaluate
from xkd.model.vit import build_encoder
from xkd.rundir import ROLES, RunDir
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
        annotated = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)
        written = annotated.replace("'", '"')
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


def test_an_encoder_of_a_run_is_chosen_by_modality_and_role(run: Path, encoders: Path) -> None:
    for role in ROLES:
        for m in MODALITIES:
            by_run, by_file = xkd.load(run, m, role), xkd.load(RunDir(run).encoder(role, m))
            assert by_run.modality == m
            assert torch.equal(by_run.cls_token, by_file.cls_token)
    assert torch.equal(xkd.load(str(run), "video").positions, xkd.load(run, "video", "teacher").positions)
    with pytest.raises(UserError, match="has encoders of video and of audio; give modality"):
        xkd.load(run)
    with pytest.raises(UserError, match="no encoder techer video; available: teacher or student"):
        xkd.load(run, "video", "techer")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no run in .*; give a directory that xkd pretrain wrote"):
        xkd.load(encoders, "video")
    with pytest.raises(UserError, match="is an encoder of audio, not of video"):
        xkd.load(encoders / "audio", "video")
    with pytest.raises(UserError, match="contains a projector"):
        xkd.load(RunDir(run).projector("teacher", "video"))


def test_files_are_read_directly_one_or_several_at_once(encoders: Path, tmp_path: Path) -> None:
    config = tiny_config()
    paths = [
        write_film(tmp_path / "four.mkv", Video(), SOUND),
        write_film(tmp_path / "eight.mp4", Video(numbers=range(200)), SOUND),
    ]
    for m, name in (("video", "frames"), ("audio", "waveform")):
        encoder = load(encoders, m)
        batch = encoder.transform(paths)
        assert len(batch) == 2
        torch.testing.assert_close(encoder.transform(str(paths[0])), batch[:1])
        item: Any = read_media(paths[1], config)[0].window(config, 2.0)  # the middle of eight seconds
        expected = Views(config).plain({name: item[name][None]})[m]  # type: ignore[misc, index]
        torch.testing.assert_close(batch[1:], expected)
        assert encoder.pool(encoder(batch)).shape == (2, 32)
    silent = write_film(tmp_path / "silent.mkv")
    with pytest.raises(UserError, match=r"silent.mkv has no audio$"):
        load(encoders, "audio").transform(silent)
    with pytest.raises(UserError, match=r"missing.mp4 cannot be read: .*No such file"):
        load(encoders, "video").transform([silent, tmp_path / "missing.mp4"])


@pytest.mark.parametrize("modality", MODALITIES)
def test_half_precision_halves_the_encoder_and_its_input_but_not_the_front_end(
    encoders: Path, modality: str
) -> None:
    clip = torch.rand(64000) if modality == "audio" else torch.randint(256, (32, 40, 50, 3)).byte()
    whole, half = load(encoders, modality), load(encoders, modality).half()
    view = half.transform(clip)
    assert view.dtype == torch.float16
    torch.testing.assert_close(view, whole.transform(clip).half())
    features, expected = half.pool(half(view)), whole.pool(whole(whole.transform(clip)))
    assert features.dtype == torch.float16
    torch.testing.assert_close(features.float(), expected, atol=0.02, rtol=0.02)


def test_files_that_are_not_encoders_are_refused(encoders: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"not one")
    with pytest.raises(UserError, match="not a safetensors file"):
        xkd.load(tmp_path / "other")
    with pytest.raises(UserError, match="no encoder at"):
        xkd.load(tmp_path / "missing")
    save_weights({}, {"classes": ["a"]}, tmp_path / "classifier")
    with pytest.raises(UserError, match="contains a classifier"):
        xkd.load(tmp_path / "classifier")
