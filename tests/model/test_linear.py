"""Linear layers use oneDNN where it is faster, with equal results."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from xkd.model.onednn_linear import LEAST_WEIGHT, Linear

LARGE, SMALL = (384, LEAST_WEIGHT // 384 + 1), (96, 128)


def layer_and_rows(size: tuple[int, int], *, bias: bool = True) -> tuple[Linear, torch.Tensor]:
    torch.manual_seed(0)
    return Linear(*size, bias=bias), torch.randn(40, size[0], requires_grad=True)


def products_by_onednn(layer: nn.Module, rows: torch.Tensor) -> int:
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        layer(rows).float().sum().backward()
    return sum(event.count for event in seen.key_averages() if event.key == "mkldnn::_linear_pointwise")


@pytest.mark.parametrize("size", [LARGE, SMALL])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_equal_those_of_nn_linear(size: tuple[int, int], bias: bool) -> None:
    layer, rows = layer_and_rows(size, bias=bias)
    exact = nn.Linear(*size, bias=bias, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    same_rows = rows.detach().double().requires_grad_()
    above = torch.randn(40, size[1])

    out, right = layer(rows), exact(same_rows)
    gradients = torch.autograd.grad(out, [rows, *layer.parameters()], above)
    right_gradients = torch.autograd.grad(right, [same_rows, *exact.parameters()], above.double())

    for mine, its in zip((out, *gradients), (right, *right_gradients), strict=True):
        torch.testing.assert_close(mine.double(), its, rtol=1e-5, atol=1e-4)


def test_large_layers_use_onednn_except_for_the_gradient_of_weights() -> None:
    assert products_by_onednn(*layer_and_rows(LARGE)) == 2


def test_only_required_gradients_are_computed() -> None:
    layer, rows = layer_and_rows(LARGE)
    layer.weight.requires_grad_(False)
    assert products_by_onednn(layer, rows) == 2
    assert products_by_onednn(layer, rows.detach()) == 1


def test_small_layers_other_types_and_autocast_do_not_use_onednn() -> None:
    layer, rows = layer_and_rows(LARGE)
    assert products_by_onednn(*layer_and_rows(SMALL)) == 0
    assert products_by_onednn(layer.double(), rows.double()) == 0
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert products_by_onednn(layer, rows) == 0
