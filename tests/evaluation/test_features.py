from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.tiny import tiny_config
from tests.waiting import until
from xkd.config import MODALITIES, Modality
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.clips import Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views
from xkd.errors import UserError
from xkd.evaluation.feature_store import FeatureStore
from xkd.evaluation.features import (
    ClipFeatures,
    FeatureExtractor,
    hash_weights,
    published_hash,
    raw_input,
)
from xkd.evaluation.score import Part
from xkd.launch.distributed import DistributedContext
from xkd.rundir import RunDir
from xkd.weights import load

CPU = torch.device("cpu")
ALONE = DistributedContext(0, 1, CPU)


def features(
    encoder: FeatureExtractor, prepared: Path, clips: Clips, part: Part, seed: int = 0
) -> NDArray[np.float32]:
    """Two windows of each clip, (windows, D)."""
    store = FeatureStore(prepared, PreparedDataset.open(prepared), tiny_config(), seed, ALONE)
    parts = store.extract(encoder, clips, part, 2)
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])


def stored(
    store: FeatureStore, encoder: FeatureExtractor, clips: Clips, part: Part, count: int
) -> ClipFeatures:
    store.make(encoder, part, count)
    return store.read(encoder, clips, part, count)


def test_features_are_the_mean_patch_tokens_of_the_plain_views(prepared: Path, run: Path) -> None:
    config, clips = tiny_config(), PreparedDataset.open(prepared).split("val")[:3]
    (batch,) = evaluation_batches(PreparedDataset.open(prepared), clips, config, 2)
    views = Views(config).plain(batch)
    for m in MODALITIES:
        encoder = load(run / "encoders" / f"teacher_{m}.safetensors")
        expected = encoder(views[m])[:, 1:].mean(dim=1)
        found = features(FeatureExtractor.load(RunDir(run), config, "teacher", m, 0), prepared, clips, "test")
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
        assert batch["clip"].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("modality", MODALITIES)
def test_extraction_depends_on_the_seed_alone(prepared: Path, run: Path, modality: Modality) -> None:
    config, clips = tiny_config(), PreparedDataset.open(prepared).split("train")[:3]
    encoder = FeatureExtractor.load(RunDir(run), config, "random", modality, 0)
    first, again, other = (features(encoder, prepared, clips, "train", seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_features_do_not_depend_on_the_other_clips(prepared: Path, run: Path) -> None:
    config, clips = tiny_config(), PreparedDataset.open(prepared).split("train")[:4]
    encoder = FeatureExtractor.load(RunDir(run), config, "random", "video", 0)
    together = features(encoder, prepared, clips, "train")
    alone = features(encoder, prepared, clips[2:3], "train")
    np.testing.assert_allclose(together[4:6], alone, rtol=1e-4, atol=1e-5)


def test_the_random_encoder_depends_on_the_seed_alone(run: Path) -> None:
    hashes = [
        FeatureExtractor.load(RunDir(run), tiny_config(), "random", "audio", seed).hash for seed in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] != published_hash(run, "teacher", "audio")


def test_the_hash_depends_on_the_weights_alone(run: Path) -> None:
    weights = load(run / "encoders" / "student_video.safetensors").state_dict()
    assert hash_weights(weights) == published_hash(run, "student", "video")
    weights["cls_token"] = weights["cls_token"] + 1e-6
    assert hash_weights(weights) != published_hash(run, "student", "video")


def test_the_raw_baseline_is_the_downsampled_view() -> None:
    video = torch.zeros(2, 3, 32, 64, 64)
    video[1, :, :4, :8, :8] = 3.0
    features = raw_input(video)
    assert features.shape == (2, 8 * 8 * 8)
    assert features[1].tolist() == [3.0] + [0.0] * 511
    assert raw_input(torch.zeros(2, 1, 80, 448)).shape == (2, 20 * 28)


def test_features_are_extracted_once(
    prepared: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, manifest = tiny_config(), PreparedDataset.open(prepared)
    clips = manifest.split("val")[:2]
    store = FeatureStore(tmp_path, manifest, config, 0, ALONE)
    encoder = FeatureExtractor.load(RunDir(run), config, "teacher", "audio", 0)
    first = stored(store, encoder, clips, "test", 2)
    (file,) = tmp_path.glob("*.npy")
    written = file.stat().st_mtime_ns
    others = stored(store, encoder, manifest.split("val")[1:4], "test", 2)
    assert np.array_equal(first.features[2:], others.features[:2])
    assert first.clip.tolist() == [0, 0, 1, 1]
    assert np.load(file, mmap_mode="r").shape == (10, 2, 32)
    assert file.stat().st_mtime_ns == written
    stored(store, encoder, clips, "test", 3)
    stored(store, FeatureExtractor.load(RunDir(run), config, "random", "audio", 0), clips, "test", 2)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    monkeypatch.setattr("xkd.evaluation.feature_store.code_hash", lambda *_: "of changed code")
    stored(store, encoder, clips, "test", 2)
    assert len(list(tmp_path.glob("*.npy"))) == 4


KILLED = """
import sys, time
from pathlib import Path
from tests.tiny import tiny_config
from xkd.data.shards.clips import Clips
from xkd.data.shards.manifest import PreparedDataset
from xkd.evaluation import feature_store as module
from xkd.evaluation.features import FeatureExtractor
from xkd.rundir import RunDir
from xkd.launch.distributed import DistributedContext
import torch
ALONE = DistributedContext(0, 1, torch.device("cpu"))
module._SAVE_SECONDS = 0.0
extract = module.FeatureStore.extract
def slowly(*given):
    for number, part in enumerate(extract(*given)):
        yield part
        if number == 0:
            print("one part is there", flush=True)
            time.sleep(600)
module.FeatureStore.extract = slowly
run, prepared, out = map(Path, sys.argv[1:])
manifest, config = PreparedDataset.open(prepared), tiny_config()
store = module.FeatureStore(out, manifest, config, 0, ALONE)
encoder = FeatureExtractor.load(RunDir(run), config, "teacher", "audio", 0)
store.make(encoder, "train", 2)
"""


def test_a_killed_extraction_resumes_with_the_missing_clips(
    prepared: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", KILLED, str(run), str(prepared), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout
    assert process.stdout.readline() == b"one part is there\n"
    (marker,) = (tmp_path / "killed").glob("*.done")
    until(lambda: sum(marker.read_bytes()))
    process.kill()
    process.communicate()
    done = sum(marker.read_bytes())
    config, manifest = tiny_config(), PreparedDataset.open(prepared)
    clips = manifest.split("train")
    assert 0 < done < len(clips)
    capsys.readouterr()
    encoder = FeatureExtractor.load(RunDir(run), config, "teacher", "audio", 0)
    resumed = stored(
        FeatureStore(tmp_path / "killed", manifest, config, 0, ALONE), encoder, clips, "train", 2
    )
    assert f"{len(clips)}/{len(clips)}" in capsys.readouterr().err
    whole = stored(FeatureStore(tmp_path / "whole", manifest, config, 0, ALONE), encoder, clips, "train", 2)
    np.testing.assert_allclose(resumed.features, whole.features, rtol=1e-4, atol=1e-5)
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_a_run_without_encoders_is_an_error(tmp_path: Path) -> None:
    for find in (lambda: FeatureExtractor.load(RunDir(tmp_path), tiny_config(), "teacher", "video", 0),
                 lambda: published_hash(tmp_path, "teacher", "video")):  # fmt: skip
        with pytest.raises(UserError, match=r"no encoder at .*teacher_video\.safetensors"):
            find()
