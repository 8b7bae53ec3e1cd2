from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from tests.tiny import tiny_config
from xkd.config import FinetuneAudioConfig, FinetuneConfig, FinetuneVideoConfig
from xkd.data.transforms.finetune import mask_spectrogram, rand_augment
from xkd.data.transforms.params import AudioParams, draw_params, finetune_views

AUDIO = FinetuneAudioConfig()


def masks(seed: int, count: int, audio: FinetuneAudioConfig, mels: int, frames: int) -> AudioParams:
    """Parameters of the one view of `count` spectrograms."""
    config, rng = tiny_config(), np.random.default_rng(seed)
    specs = finetune_views(config, FinetuneConfig(audio=audio))
    specs = replace(specs, audio=((specs.audio[0][0], (mels, frames)),))
    params: AudioParams = default_collate(
        [draw_params(rng, specs, config, 32, 40).audio for _ in range(count)]
    )
    return AudioParams(*(values[:, 0] for values in params))


def test_rand_augment_is_the_same_for_every_frame() -> None:
    frame = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    changed = 0
    for seed in range(12):
        (first, *others) = rand_augment(frame.expand(5, -1, -1, -1), FinetuneVideoConfig(), seed)
        assert all(torch.equal(first, other) for other in others)
        assert first.shape == frame.shape[1:]
        changed += not torch.equal(first, frame[0])
    assert changed >= 8


def test_rand_augment_follows_its_seed_and_leaves_the_global_generator_alone() -> None:
    frames = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    once, again = (rand_augment(frames, FinetuneVideoConfig(), 7) for _ in range(2))
    assert np.random.random() == expected  # noqa: NPY002
    assert torch.equal(once, again)
    assert not torch.equal(once, rand_augment(frames, FinetuneVideoConfig(), 8))
    still = FinetuneVideoConfig(magnitude=0)
    assert torch.equal(rand_augment(frames, still, 7), frames)


def test_masks_have_the_widths_of_table_s7() -> None:
    found = masks(0, 2000, AUDIO, 80, 448)
    for bands, size, most in ((found.mel_masks, 80, 10), (found.time_masks, 448, 20)):
        starts, widths = bands.unbind(-1)
        assert bands.shape == (2000, 2, 2)
        assert [int(widths.min()), int(widths.max())] == [0, most]
        assert starts.min() == 0
        assert (starts + widths).max() == size
    center, shift = found.warp.unbind(-1)
    assert [int(shift.min()), int(shift.max())] == [-20, 20]
    assert (center + shift).min() > 0
    assert (center + shift).max() < 448


def test_masked_bands_hold_the_mean_and_the_rest_is_unchanged() -> None:
    view = torch.randn(6, 1, 80, 448)
    found = masks(1, 6, FinetuneAudioConfig(warp=0), 80, 448)
    masked = mask_spectrogram(view, found)
    for sample, before in zip(masked, view, strict=True):
        changed = sample[0] != before[0]
        assert torch.allclose(sample[0][changed], before.mean(), atol=1e-6)
    for place in range(6):
        hidden = torch.zeros(80, 448, dtype=torch.bool)
        for start, width in found.mel_masks[place].tolist():
            hidden[start : start + width] = True
        for start, width in found.time_masks[place].tolist():
            hidden[:, start : start + width] = True
        assert torch.equal(masked[place, 0][~hidden], view[place, 0][~hidden])
        assert torch.equal(masked[place, 0] != view[place, 0], hidden)


@pytest.mark.parametrize("shift", [-20, -3, 0, 5, 20])
def test_time_warp_moves_a_frame_by_its_shift(shift: int) -> None:
    center = 100
    view = torch.zeros(1, 1, 4, 448)
    view[..., center:] = 1.0
    params = masks(0, 1, FinetuneAudioConfig(masks=0), 4, 448)
    warped = mask_spectrogram(view, params._replace(warp=torch.tensor([[center, shift]])))
    assert warped.shape == view.shape
    assert warped[0, 0, 0].gt(0.5).nonzero()[0] == center + shift


def test_a_short_spectrogram_can_be_masked() -> None:
    found = masks(0, 200, AUDIO, 8, 12)
    assert mask_spectrogram(torch.randn(200, 1, 8, 12), found).isfinite().all()


def test_fine_tuning_neither_jitters_colors_nor_blurs() -> None:
    tuning = FinetuneConfig()
    specs = finetune_views(tiny_config(), tuning)
    for seed in range(50):
        video, audio = draw_params(np.random.default_rng(seed), specs, tiny_config(), 100, 100)
        assert video.jitter.tolist() == [[1.0, 1.0, 1.0, 0.0]]
        assert not video.gray.any()
        assert not video.sigma.any()
        _, _, height, width = video.box[0]
        assert 0.19 < height * width / 1e4 < 0.78
        assert 0.8 <= audio.volume[0] <= 1.2
