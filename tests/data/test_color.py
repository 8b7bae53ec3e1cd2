from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.data.samples import noise, recorded_picture
from xkd.data.transforms import color

oracle = pytest.importorskip("torchvision.transforms.v2.functional")

HUES = (*(number / 24 for number in range(-12, 13)), -0.2, 0.13, 0.2)
"""Every half of a twelfth of a turn: each channel's place, and the limits between them."""
OPERATIONS: list[tuple[str, Callable[[Tensor, float], Tensor], tuple[float, ...]]] = [
    ("brightness", oracle.adjust_brightness, (0.0, 0.6, 1.0, 1.4, 2.0)),
    ("contrast", oracle.adjust_contrast, (0.0, 0.6, 1.0, 1.4, 2.0)),
    ("saturation", oracle.adjust_saturation, (0.0, 0.6, 1.0, 1.4, 2.0)),
    ("hue", oracle.adjust_hue, HUES),
]


def apply(name: str, x: Tensor, factors: list[float]) -> Tensor:
    """One operation, in [0, 1], on all samples at once and on each alone, which must agree."""
    neutral = [1.0, 1.0, 1.0, 0.0]
    number = [operation for operation, *_ in OPERATIONS].index(name)
    each = [[*neutral[:number], factor, *neutral[number + 1 :]] for factor in factors]
    order = [[0, 1, 2, 3]] * len(factors)
    together, white = color.jitter(x.clone() * 200, each, order, 200.0)
    together = together.div_(white)
    for place in range(len(factors)):
        part = slice(place, place + 1)
        alone, level = color.jitter(x[part].clone() * 200, each[part], order[part], 200.0)
        torch.testing.assert_close(together[part], alone / level, atol=2e-6, rtol=0)
    return together


@pytest.mark.parametrize(("name", "expected", "factors"), OPERATIONS)
def test_color_equals_torchvision(
    name: str, expected: Callable[[Tensor, float], Tensor], factors: tuple[float, ...]
) -> None:
    x = noise(len(factors), 3, 4, 11, 13)
    x[:, :, 0] = (x[:, :, 0] * 3).round() / 3  # grays, pure colors, black and white
    ours = apply(name, x, list(factors))
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
    ours = apply(name, recorded_picture(recorded, "resized_crop_96"), [factor])
    error = (ours - recorded_picture(recorded, f"jitter/{key}")).abs() * 255
    assert error.mean() < (2.0 if name == "hue" else 0.6)  # PIL keeps hue and saturation in 8 bits
    assert error.max() < (12 if name == "hue" else 1.6)


def test_gray_equals_recorded_pil(recorded: dict[str, Tensor]) -> None:
    ours = color.to_gray(recorded_picture(recorded, "resized_crop_96"))[0, 0, 0] * 255
    assert (ours - recorded["video/gray_96"].float()).abs().max() < 1


def test_jitter_follows_each_samples_order() -> None:
    x = noise(5, 3, 2, 8, 8)
    factors = [
        [0.7, 1.3, 0.6, 0.1],
        [1.4, 0.6, 1.4, -0.2],
        [0.0, 1.4, 1.4, 0.2],
        [1.4, 1.4, 1.4, -0.1],
        [1.0] * 4,
    ]
    factors[4][3] = 0.5
    order = [[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3], [1, 3, 0, 2], [2, 0, 3, 1]]
    together, white = color.jitter(x.clone(), factors, order, 1.0)
    adjust = [operation for _, operation, _ in OPERATIONS]
    for number, operations in enumerate(order):
        frames = x[number].transpose(0, 1)
        for operation in operations:
            frames = adjust[operation](frames, factors[number][operation])
        ours = (together / white)[number].transpose(0, 1)
        torch.testing.assert_close(ours, frames, atol=4e-6, rtol=0)
