"""The samples that a run saves for its figures, with a small untrained model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tests.tiny import tiny_config
from xkd.config import MODALITIES, ModalityConfig, PretrainConfig, other
from xkd.data.datasets.evaluation import evaluation_batches
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.transforms.views import Views
from xkd.model.xkd import XKD
from xkd.train.visualize import CLIPS, FRAMES, RATIOS, save_samples

Kept = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def keep(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[XKD], Kept]:
    """What `save_samples` writes of a model."""
    path = tmp_path_factory.mktemp("pictures") / "reconstruction.pt"

    def saved(model: XKD) -> Kept:
        save_samples(model, PreparedDataset.open(prepared), path)
        kept: Kept = torch.load(path, weights_only=True)
        return kept

    return saved


def finer(config: PretrainConfig, mask: Literal["random", "tube"] = "random") -> PretrainConfig:
    """128 patches of video, so that nine of ten places of a tube can be hidden."""
    return replace(config, video=replace(config.video, patch=(4, 8, 8), mask=mask))


def visible(config: ModalityConfig, ratio: float) -> int:
    """Patches that a student sees."""
    times = config.grid[0] if config.mask == "tube" else 1
    return times * round(math.prod(config.grid) // times * (1 - ratio))


@pytest.mark.parametrize("mask", ["random", "tube"])
def test_masks_are_nested_and_hide_the_mask_ratio(
    keep: Callable[[XKD], Kept], mask: Literal["random", "tube"]
) -> None:
    config = finer(tiny_config(), mask)
    kept = keep(XKD(config))
    for m in MODALITIES:
        settings = config.modality(m)
        assert kept[m]["ratios"].tolist() == [settings.mask_ratio, *RATIOS[m]]
        for ratio, hidden in zip(kept[m]["ratios"].tolist(), kept[m]["hidden"], strict=True):
            assert hidden.shape == (CLIPS, *settings.grid)
            assert (~hidden).flatten(1).sum(dim=1).tolist() == [visible(settings, ratio)] * CLIPS
        for fewer, more in zip(kept[m]["hidden"][1:], kept[m]["hidden"][2:], strict=False):
            assert bool((more | ~fewer).all())
    if mask == "tube":
        times = kept["video"]["hidden"]
        assert torch.equal(times, times[:, :, :1].expand_as(times))


def test_visible_patches_are_kept_and_hidden_ones_replaced(
    keep: Callable[[XKD], Kept],
) -> None:
    kept = keep(XKD(finer(tiny_config())))
    for m in MODALITIES:
        original = kept[m]["original"]
        for hidden, reconstructed in zip(kept[m]["hidden"], kept[m]["reconstructed"], strict=True):
            where = interpolate(hidden[:, None].float(), original.shape[2:], mode="nearest-exact") > 0
            same = (reconstructed == original).all(dim=1, keepdim=True)
            assert bool(same[~where].all())
            assert float(same[where].float().mean()) < 0.2


def test_reconstructed_patches_have_the_original_mean_and_deviation(keep: Callable[[XKD], Kept]) -> None:
    """A prediction that is normalized as the targets are: what replaces a patch has its two moments."""
    model = XKD(tiny_config())
    with torch.no_grad():
        predict = model.decoder.get_submodule("audio.predict")
        assert isinstance(predict, nn.Linear)
        predict.weight.zero_()
        predict.bias.copy_(torch.linspace(-1, 1, len(predict.bias)))
        predict.bias.div_(predict.bias.std())
    kept = keep(model)["audio"]
    mels, frames = tiny_config().audio.patch
    for version in kept["reconstructed"]:
        for moment in (torch.mean, torch.std):
            of = [
                moment(x.float().unfold(2, mels, mels).unfold(3, frames, frames).flatten(4), dim=-1)
                for x in (version, kept["original"])
            ]
            torch.testing.assert_close(*of, atol=2e-3, rtol=2e-3)


def test_attention_and_relevance_follow_the_equations(keep: Callable[[XKD], Kept]) -> None:
    kept = keep(XKD(tiny_config()))
    for m in MODALITIES:
        own, across = kept[m]["attention"].flatten(1), kept[other(m)]["attention"].flatten(1)
        assert float(own.min()) >= 0
        assert bool((own.sum(dim=1) < 1).all())  # a softmax, less what the class token gives itself
        relevance = kept[m]["relevance"].flatten(1)
        assert float(relevance.min()) >= 0
        # Equation 4 divides each head by the own mean: the mean that is left is the other modality's.
        torch.testing.assert_close(relevance.mean(dim=1), across.mean(dim=1))


@pytest.mark.parametrize("relevance", ["mean", "softmax"])
def test_relevance_gives_the_weights_of_the_teachers_features(
    prepared: Path, keep: Callable[[XKD], Kept], relevance: Literal["mean", "softmax"]
) -> None:
    config = tiny_config()
    config = replace(config, refine=replace(config.refine, relevance=relevance))
    model = XKD(config)
    kept = keep(model)
    held_out = [clip for clip in PreparedDataset.open(prepared).clips if clip.splits[0] != "train"][:CLIPS]
    (batch,) = evaluation_batches(PreparedDataset.open(prepared), held_out, config, 1)
    views = Views(config).plain(batch)
    features = model.teacher_features(views)
    for m in MODALITIES:
        tokens = model.teacher[m].encoder(views[m])[:, 1:]
        weighted = (tokens * kept[m]["relevance"].flatten(1).unsqueeze(-1)).mean(dim=1)
        scale = tokens.mean(dim=1).norm(dim=-1) / weighted.norm(dim=-1)
        torch.testing.assert_close(features[m], weighted * scale.unsqueeze(-1))


def test_without_refinement_there_are_no_attention_maps(keep: Callable[[XKD], Kept]) -> None:
    config = tiny_config()
    kept = keep(XKD(replace(config, refine=replace(config.refine, relevance="none"))))
    assert set(kept) == set(MODALITIES)
    nothing = replace(config.loss, align=0.0, distill=0.0)
    alone = keep(XKD(replace(config, modalities=("video",), loss=nothing)))
    assert set(alone) == {"video"}
    for picture in (*kept.values(), *alone.values()):
        assert set(picture) == {"original", "ratios", "hidden", "reconstructed"}


def test_samples_are_small_and_reproducible(prepared: Path, tmp_path: Path) -> None:
    model = XKD(tiny_config())
    for name in ("a", "b"):
        save_samples(model, PreparedDataset.open(prepared), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    kept: Kept = torch.load(tmp_path / "a", weights_only=True)
    assert kept["video"]["original"].dtype == torch.uint8
    assert kept["video"]["original"].shape == (CLIPS, 3, FRAMES, 32, 32)
    assert kept["audio"]["original"].dtype == torch.half
