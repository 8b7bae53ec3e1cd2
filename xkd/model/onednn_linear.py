"""Linear layers that use oneDNN on a CPU."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_WEIGHT = 2**18
"""Smallest number of weights for which oneDNN is faster; below it the call costs more than it saves."""


def onednn_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a (R, in) times the transpose of b (out, in) plus the bias, computed by oneDNN."""
    # torch has no public function for it.
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], ""))


class Linear(nn.Linear):
    """`nn.Linear` for rows (R, in) that computes large float32 products on a CPU with oneDNN.

    torch uses MKL, which is slower when weights and activations do not fit the cache, as in every layer of a
    ViT-B (docs/benchmarks.md).
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Map (R, in) to (R, out)."""
        if not _suits_onednn(rows, self.weight):
            return super().forward(rows)
        return cast(Tensor, _OneDNN.apply(rows, self.weight, self.bias))  # type: ignore[no-untyped-call]


def _suits_onednn(rows: Tensor, weight: Tensor) -> bool:
    return (
        rows.device.type == "cpu"
        and rows.dtype == weight.dtype == torch.float32
        and weight.numel() >= LEAST_WEIGHT
        and torch._C._has_mkldnn
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _OneDNN(torch.autograd.Function):
    """The linear layer and its gradients, all computed by oneDNN."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return onednn_product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        return (
            onednn_product(gradient, weight.t()) if for_rows else None,
            gradient.t() @ rows if for_weight else None,  # oneDNN would first copy both, transposed
            gradient.sum(dim=0) if for_bias else None,
        )
