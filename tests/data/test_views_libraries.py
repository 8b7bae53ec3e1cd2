"""The views by other libraries that benchmarks compare with ours."""

from __future__ import annotations

import pytest
import torch

from benchmarks.views import compare
from benchmarks.views_fused import fused_jitter
from tests.data.samples import noise
from tests.tiny import tiny_config
from xkd.data.transforms import color

pytest.importorskip("torchvision.transforms.v2.functional")


def test_libraries_make_the_same_views() -> None:
    rows = compare(tiny_config(), clips=2, repeats=1, height=48, width=64)
    assert rows["xkd"][1:] == (0, 0)
    assert rows["torchvision, floats"][1] < 0.01
    for name, (milliseconds, largest, mean) in rows.items():
        assert milliseconds > 0, name
        assert largest >= mean, name
        assert mean < 8, name


@pytest.mark.parametrize("shift", [-0.2, -0.15, -0.05, 0.05, 0.1, 0.2])
def test_the_fused_jitter_is_the_same_jitter(shift: float) -> None:
    x = noise(1, 3, 2, 5, 7) * 255
    for factors, order in (([1.3, 0.7, 1.4, shift], [0, 1, 2, 3]), ([0.8, 1.3, 0.6, shift], [3, 2, 1, 0])):
        ours, white = color.jitter(x.clone(), [factors], [order], 255.0)
        fused, level = fused_jitter(x.clone(), [factors], [order], 255.0)
        torch.testing.assert_close(fused / level, ours / white, atol=1e-5, rtol=0)
