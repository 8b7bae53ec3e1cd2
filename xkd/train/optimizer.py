"""The optimizer of pretraining and its gradient clipping per tensor (section A.3, Table S4)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from xkd.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over all trainable parameters.

    Biases and other one-dimensional tensors have no weight decay. Class tokens, mask tokens and position
    tables have, as in the authors' code.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8, fused=True)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Clip the gradient of each tensor to an L2 norm of `max_norm`, as in the authors' code."""
    # No synchronization with the device.
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-6)).clamp(max=1.0).unbind()))
