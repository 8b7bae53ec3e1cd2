from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.data.samples import noise, recorded_picture
from xkd.data.transforms import color

oracle = pytest.importorskip("torchvision.transforms.v2.functional")

OPERATIONS: list[tuple[str, Callable[[Tensor, float], Tensor], tuple[float, ...]]] = [
    ("brightness", oracle.adjust_brightness, (0.6, 1.4)),
    ("contrast", oracle.adjust_contrast, (0.6, 1.4)),
    ("saturation", oracle.adjust_saturation, (0.6, 1.4)),
    ("hue", oracle.adjust_hue, (-0.2, 0.0, 0.13, 0.5)),
]


@pytest.mark.parametrize(("name", "expected", "factors"), OPERATIONS)
def test_color_equals_torchvision(
    name: str, expected: Callable[[Tensor, float], Tensor], factors: tuple[float, ...]
) -> None:
    x = noise(len(factors), 3, 4, 10, 12)
    x[:, :, 0] = (x[:, :, 0] * 3).round() / 3  # grays, pure colors, black and white
    ours = x.clone()
    getattr(color, name)(ours, torch.tensor(factors))
    for number, factor in enumerate(factors):
        frames = expected(x[number].transpose(0, 1), factor).transpose(0, 1)
        torch.testing.assert_close(ours[number], frames, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "factor", "key"),
    [
        ("brightness", 1.3, "brightness_1_3"),
        ("contrast", 0.8, "contrast_0_8"),
        ("saturation", 0.7, "saturation_0_7"),
        ("hue", 0.15, "hue_0_15"),
        ("hue", -0.1, "hue_m0_1"),
    ],
)
def test_color_is_close_to_recorded_pil(
    recorded: dict[str, Tensor], name: str, factor: float, key: str
) -> None:
    x = recorded_picture(recorded, "resized_crop_96")
    getattr(color, name)(x, torch.tensor([factor]))
    error = (x - recorded_picture(recorded, f"jitter/{key}")).abs() * 255
    assert error.mean() < (2.0 if name == "hue" else 0.6)  # PIL keeps hue and saturation in 8 bits
    assert error.max() < (12 if name == "hue" else 1.6)


def test_gray_equals_recorded_pil(recorded: dict[str, Tensor]) -> None:
    ours = color.to_gray(recorded_picture(recorded, "resized_crop_96"))[0, 0, 0] * 255
    assert (ours - recorded["video/gray_96"].float()).abs().max() < 1


def test_jitter_follows_each_samples_order() -> None:
    x = noise(5, 3, 2, 8, 8)
    factors = torch.tensor([[0.7, 1.3, 0.6, 0.1]]).expand(5, 4)
    order = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3], [1, 3, 0, 2], [2, 0, 3, 1]])
    together = x.clone()
    color.jitter(together, factors, order)
    for number in range(5):
        alone = x[number : number + 1].clone()
        for operation in order[number].tolist():
            color.JITTER[operation](alone, factors[number : number + 1, operation])
        torch.testing.assert_close(together[number], alone[0], atol=1e-6, rtol=0)
