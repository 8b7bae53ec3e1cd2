from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.data.samples import noise
from xkd.data.transforms.resample import cubic, gaussian

oracle = pytest.importorskip("torchvision.transforms.v2.functional")


def test_short_side_resize_equals_the_recorded_pil_resize(recorded: dict[str, Tensor]) -> None:
    image = recorded["video/image"].permute(2, 0, 1)[None]
    ours = torch.nn.functional.interpolate(image, (112, 199), mode="bilinear", antialias=True)
    error = ours[0].float() - recorded["video/basic_resize_112"].permute(2, 0, 1).float()
    assert error.abs().max() <= 1


@pytest.mark.parametrize("number", range(4))
def test_audio_crop_equals_the_authors(recorded: dict[str, Tensor], number: int) -> None:
    top, left, height, width = recorded[f"audio/randcrop/{number}/box"][:, None]
    rows, columns = cubic(top, height, 80, 80), cubic(left, width, 112, 168)[:, :, 28:140]
    ours = rows @ recorded["audio/spec_local"] @ columns.mT
    torch.testing.assert_close(ours, recorded[f"audio/randcrop/{number}/out"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_equals_torchvision(sigma: float) -> None:
    image = noise(3, 20, 24)
    rows, columns = (gaussian(torch.tensor([sigma]), 9, size) for size in (20, 24))
    expected = oracle.gaussian_blur(image, [9, 9], [sigma, sigma])
    torch.testing.assert_close(rows @ image @ columns.mT, expected, atol=1e-6, rtol=0)


def test_no_blur_is_the_identity() -> None:
    assert torch.equal(gaussian(torch.zeros(2), 9, 16), torch.eye(16).expand(2, 16, 16))
