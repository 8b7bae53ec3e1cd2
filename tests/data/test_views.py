from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from tests.tiny import tiny_config
from xkd.config import PretrainConfig
from xkd.data.transforms.logmel import LogMel
from xkd.data.transforms.params import (
    AudioParams,
    ClipParams,
    Item,
    VideoParams,
    draw_params,
    linear_views,
    pretrain_views,
)
from xkd.data.transforms.views import Views, _cut, center_crop, to_pixels

oracle = pytest.importorskip("torchvision.transforms.v2.functional")
CONFIG = tiny_config()
ADJUST = (oracle.adjust_brightness, oracle.adjust_contrast, oracle.adjust_saturation, oracle.adjust_hue)
"""In the order of `color.jitter`."""
SPECS = pretrain_views(CONFIG)


def batch_of(count: int, height: int = 32, width: int = 40, *, config: PretrainConfig = CONFIG) -> Item:
    specs = pretrain_views(config)
    params = [draw_params(np.random.default_rng(key), specs, config, height, width) for key in range(count)]
    generator = torch.Generator().manual_seed(0)
    return {
        "frames": torch.randint(
            0, 256, (count, 32, 3, height, width), generator=generator, dtype=torch.uint8
        ),
        "waveform": torch.randn(count, 64000, generator=generator) * 0.1,
        "params": default_collate(params),
    }


def sample(batch: Item, number: int) -> Item:
    """One sample as a batch."""
    part = slice(number, number + 1)
    video, audio = batch["params"]
    params = ClipParams(VideoParams(*(x[part] for x in video)), AudioParams(*(x[part] for x in audio)))
    return {"frames": batch["frames"][part], "waveform": batch["waveform"][part], "params": params}


def test_parameters_are_within_the_published_ranges() -> None:
    many = [draw_params(np.random.default_rng(key), SPECS, CONFIG, 32, 40) for key in range(400)]
    video, audio = default_collate(many)
    area = video.box[..., 2] * video.box[..., 3] / (32 * 40)
    assert 0.18 < area[:, 0].min() < 0.25
    assert area[:, 0].max() > 0.9
    assert 0.06 < area[:, 1].min() < 0.1
    assert 0.35 < area[:, 1].max() < 0.42
    assert set(video.start[:, 0].tolist()) == {0}
    assert set(video.start[:, 1].tolist()) == set(range(25))
    jitter = video.jitter
    assert (jitter[..., :3] - 1).abs().max() <= 0.4 + 1e-6
    assert 0.19 < jitter[..., 3].abs().max() <= 0.2
    assert 0.4 < video.flip.float().mean() < 0.6
    assert not video.gray[:, 0].any()
    assert 0.12 < video.gray[:, 1].float().mean() < 0.28
    sigma = video.sigma
    assert not sigma[:, 0].any()
    assert 0.4 < (sigma[:, 1] > 0).float().mean() < 0.6
    assert 0.1 <= sigma[sigma > 0].min() < 0.2
    assert 1.9 < sigma.max() <= 2.0
    assert (audio.volume[:, 0] - 1).abs().max() <= 0.1
    assert (audio.volume[:, 1] - 1).abs().max() > 0.18
    starts = audio.start
    assert not starts[:, 0].any()
    assert not (starts[:, 1] % 100).any()
    assert starts[:, 1].max() > 47000
    assert starts[:, 1].max() <= 48000
    box = audio.box[:, 1]
    assert (box[:, 0] + box[:, 2]).max() <= 80
    assert (box[:, 1] + box[:, 3]).max() <= 168
    assert box[:, 2].min() >= 48
    assert box[:, 3].max() > 160
    # The local windows of the two modalities are drawn apart.
    assert abs(np.corrcoef(video.start[:, 1], starts[:, 1])[0, 1]) < 0.15
    assert sorted({tuple(row) for row in video.order[:, 0].tolist()})[0] == (0, 1, 2, 3)
    assert len({tuple(row) for row in video.order[:, 0].tolist()}) == 24


def test_crop_that_never_fits_falls_back_to_the_center() -> None:
    config = replace(
        CONFIG,
        views=replace(CONFIG.views, video_global=replace(CONFIG.views.video_global, crop_area=(1.0, 1.0))),
    )
    box = draw_params(np.random.default_rng(0), pretrain_views(config), config, 20, 80).video.box[0]
    assert box.tolist() == [0, 26, 20, 27]


def test_views_have_the_configured_shapes_global_first() -> None:
    views = Views(CONFIG, SPECS)(batch_of(3))
    assert [tuple(view.shape) for view in views["video"]] == [(3, 3, 32, 32, 32), (3, 3, 8, 16, 16)]
    assert [tuple(view.shape) for view in views["audio"]] == [(3, 1, 80, 448), (3, 1, 80, 112)]
    assert all(view.isfinite().all() for views_ in views.values() for view in views_)


def test_local_views_differ() -> None:
    config = replace(
        CONFIG, video=replace(CONFIG.video, local_views=3), audio=replace(CONFIG.audio, local_views=2)
    )
    views = Views(config, pretrain_views(config))(batch_of(2, config=config))
    assert [len(views["video"]), len(views["audio"])] == [4, 3]
    assert not torch.equal(views["video"][1], views["video"][2])
    assert not torch.equal(views["audio"][1], views["audio"][2])


def test_local_views_are_optional() -> None:
    config = replace(
        CONFIG, video=replace(CONFIG.video, local_views=0), audio=replace(CONFIG.audio, local_views=0)
    )
    views = Views(config, pretrain_views(config))(batch_of(2, config=config))
    assert [len(views["video"]), len(views["audio"])] == [1, 1]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_views_of_a_sample_do_not_depend_on_threads_or_other_samples(threads: int) -> None:
    before = torch.get_num_threads()
    batch = batch_of(5)
    torch.set_num_threads(1)
    make = Views(CONFIG, SPECS)
    alone = [make(sample(batch, number)) for number in range(5)]
    try:
        torch.set_num_threads(threads)
        together = make(batch)
        with torch.inference_mode():
            make(batch)
    finally:
        torch.set_num_threads(before)
    for modality, views in together.items():
        for number in range(5):
            for view, one in zip(views, alone[number][modality], strict=True):
                torch.testing.assert_close(view[number], one[0], atol=1e-6, rtol=1e-6)


def test_views_do_not_depend_on_how_many_frames_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, make = batch_of(3), Views(CONFIG, SPECS)
    batch["params"].video.sigma[:2, 1] = 1.0
    together = make(batch)["video"]
    monkeypatch.setattr("xkd.data.transforms.views._PART_PIXELS", 5000)
    for one, other in zip(make(batch)["video"], together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_views_do_not_depend_on_padding() -> None:
    batch = batch_of(3)
    padded = batch | {"frames": torch.nn.functional.pad(batch["frames"], (0, 9, 0, 5), value=255)}
    ours, theirs = Views(CONFIG, SPECS)(batch), Views(CONFIG, SPECS)(padded)
    for one, other in zip(ours["video"], theirs["video"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def cropped(frames: Tensor, box: Tensor, side: int) -> Tensor:
    """As PIL crops and resizes (see `test_crop_equals_the_recorded_pil_crop`): whole levels; then in [0, 1].

    Not torchvision's `resized_crop`, which on processors without AVX2 rounds once instead of once per axis.
    """
    crop = oracle.crop(frames, *box.tolist())
    return torch.nn.functional.interpolate(crop, [side, side], mode="bilinear", antialias=True).float() / 255


def test_global_view_equals_torchvision_step_by_step() -> None:
    batch = batch_of(3)
    ours = to_pixels(Views(CONFIG, SPECS)(batch)["video"][0])
    for number in range(3):
        d = VideoParams(*(values[number, 0] for values in batch["params"].video))
        frames = cropped(batch["frames"][number], d.box, 32)
        if d.flip:
            frames = oracle.horizontal_flip(frames)
        for operation in d.order.tolist():
            frames = ADJUST[operation](frames, float(d.jitter[operation]))
        torch.testing.assert_close(ours[number], frames.transpose(0, 1), atol=2e-5, rtol=0)


def test_local_view_equals_torchvision_step_by_step() -> None:
    batch = batch_of(6)
    batch["params"].video.gray[:3, 1] = True
    batch["params"].video.sigma[:, 1] = torch.tensor([0.0, 0.5, 1.9, 0.0, 0.5, 1.9])
    ours = to_pixels(Views(CONFIG, SPECS)(batch)["video"][1])
    for number in range(6):
        d = VideoParams(*(values[number, 1] for values in batch["params"].video))
        start = int(d.start)
        frames = cropped(batch["frames"][number, start : start + 8], d.box, 16)
        if d.flip:
            frames = oracle.horizontal_flip(frames)
        for operation in d.order.tolist():
            frames = ADJUST[operation](frames, float(d.jitter[operation]))
        if d.gray:
            frames = oracle.rgb_to_grayscale(frames, 3)
        if sigma := float(d.sigma):
            frames = oracle.gaussian_blur(frames, [9, 9], [sigma, sigma])
        torch.testing.assert_close(ours[number], frames.transpose(0, 1), atol=2e-5, rtol=0)


def test_normalization_equals_the_authors(recorded: dict[str, Tensor]) -> None:
    pixels = to_pixels(recorded["video/normalized_96"][None])[0]
    torch.testing.assert_close(pixels, recorded["video/to_tensor_96"] / 255, atol=1e-6, rtol=0)


def test_audio_views_equal_the_authors(recorded: dict[str, Tensor]) -> None:
    batch = batch_of(1)
    batch["waveform"] = recorded["audio/wav"][None]
    start = int(recorded["audio/local_start"])
    audio = batch["params"].audio._replace(
        volume=torch.tensor([[1.07, 1.0]]),
        start=torch.tensor([[0, start]]),
        box=torch.tensor([[[0, 28, 80, 112], [0, 28, 80, 112]]]),
    )
    batch["params"] = batch["params"]._replace(audio=audio)
    spectrogram, local = Views(CONFIG, SPECS)(batch)["audio"]
    torch.testing.assert_close(
        spectrogram[0], recorded["audio/spec_global_voljitter_1.07"], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(local[0], recorded["audio/spec_local"], atol=1e-4, rtol=0)


def test_linear_recipe_makes_one_augmented_global_view() -> None:
    specs = linear_views(CONFIG)
    batch = batch_of(1)
    batch["params"] = default_collate([draw_params(np.random.default_rng(0), specs, CONFIG, 32, 40)])
    views = Views(CONFIG, specs)(batch)
    assert [tuple(view.shape) for view in views["video"]] == [(1, 3, 32, 32, 32)]
    assert [tuple(view.shape) for view in views["audio"]] == [(1, 1, 80, 448)]
    ((augment, _),) = specs.video
    assert (augment.crop_area, augment.gray, augment.blur) == ((0.08, 1.0), 0.2, 0.0)


def test_plain_views_are_the_standardized_window() -> None:
    batch = batch_of(2)
    expected = batch["frames"][..., 4:36].transpose(1, 2).float() / 255
    batch["frames"] = center_crop(batch["frames"], 32, 32)
    plain = Views(CONFIG).plain(batch)
    torch.testing.assert_close(to_pixels(plain["video"]), expected, atol=1e-6, rtol=0)
    assert torch.equal(plain["audio"], LogMel(CONFIG.clip, 80)(batch["waveform"]))


def test_views_of_one_modality_alone() -> None:
    batch = batch_of(2)
    make = Views(CONFIG, SPECS)
    assert list(make({"frames": batch["frames"], "params": batch["params"]})) == ["video"]
    assert list(make.plain({"waveform": batch["waveform"]})) == ["audio"]


def test_the_order_of_draws_is_unchanged() -> None:
    """Whoever changes it changes every run: what docs/results.md says was measured in this order."""
    config = PretrainConfig()
    drawn = draw_params(np.random.default_rng(7), pretrain_views(config), config, 128, 170)
    assert drawn.video.box.tolist() == [[9, 74, 96, 86], [30, 43, 86, 101]]
    assert drawn.video.order.tolist() == [[0, 3, 1, 2], [0, 2, 3, 1]]
    assert drawn.audio.box.tolist() == [[0, 112, 80, 448], [0, 23, 80, 130]]
    assert drawn.audio.volume.tolist() == pytest.approx([0.9932412, 0.9987494])


@pytest.mark.parametrize("side", [112, 96])
def test_crop_equals_the_recorded_pil_crop(recorded: dict[str, Tensor], side: int) -> None:
    frames = recorded["video/basic_resize_112"].permute(2, 0, 1)[None]
    ours = _cut(frames, recorded["video/resized_crop_box"].tolist(), (side, side), False)[:, 0]
    error = ours.float() - recorded[f"video/resized_crop_{side}"].permute(2, 0, 1).float()
    assert error.abs().max() <= 1
    assert error.abs().mean() < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_make_the_same_views() -> None:
    batch = batch_of(4)
    ours, theirs = Views(CONFIG, SPECS)(batch), Views(CONFIG, SPECS).cuda()(batch)
    for modality, views in ours.items():
        for one, other in zip(views, theirs[modality], strict=True):
            # A picture may differ by one level of 255, of which rounding and jitter make a few.
            torch.testing.assert_close(one, other.cpu(), atol=0.1, rtol=0)
