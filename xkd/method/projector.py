"""The projector heads whose outputs are distilled and aligned (Table S3, section B.6)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from xkd.config import ProjectorConfig


class Projector(nn.Module):
    """Three-layer MLP to a normalised bottleneck, unit output directions and a last norm.

    Both hidden layers share one LayerNorm, and the last LayerNorm over the K outputs has no affine
    parameters; without it the distillation collapses to a constant (B.5).
    """

    def __init__(self, dim: int, size: ProjectorConfig) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(
            [nn.Linear(dim, size.hidden_dim), nn.Linear(size.hidden_dim, size.hidden_dim)]
        )
        self.norm = nn.LayerNorm(size.hidden_dim)
        self.bottleneck = nn.Linear(size.hidden_dim, size.bottleneck_dim)
        self.directions = nn.Linear(size.bottleneck_dim, size.out_dim, bias=False)
        for linear in (*self.hidden, self.bottleneck):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) pooled features to (B, K) outputs of zero mean and unit variance each."""
        x = pooled
        for linear in self.hidden:
            x = F.gelu(self.norm(linear(x)))
        x = F.normalize(self.bottleneck(x), dim=-1)
        x = F.linear(x, F.normalize(self.directions.weight, dim=-1))
        return F.layer_norm(x, x.shape[-1:])
