"""The projector heads whose outputs are distilled and aligned (Table S3, section B.6).

Outputs of both modalities are distributions over the same K dimensions, so that they can be compared; pooled
features and bottlenecks are of spaces that each modality has for itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xkd.config import ProjectorConfig
from xkd.model.losses import at_least_float32


class Projector(nn.Module):
    """MLP with a normalized bottleneck, unit output directions and a final norm.

    The hidden layers share one LayerNorm. The final LayerNorm over the K outputs has no affine parameters;
    without it the distillation collapses to a constant (B.5).
    """

    def __init__(self, dim: int, size: ProjectorConfig) -> None:
        super().__init__()
        widths = [dim] + (size.layers - 1) * [size.hidden_dim]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.norm = nn.LayerNorm(size.hidden_dim) if size.norm == "all" else nn.Identity()
        self.normalize_outputs = size.norm != "none"
        self.bottleneck = nn.Linear(size.hidden_dim, size.bottleneck_dim)
        self.directions = nn.Linear(size.bottleneck_dim, size.out_dim, bias=False)
        for linear in (*self.hidden, self.bottleneck):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map pooled features (B, D) to outputs (B, K), after the final norm of mean 0 and variance 1."""
        # In float32 or better: the alignment's kernels amplify rounding in these rows, and the projector is
        # a thousandth of a step's cost.
        with torch.autocast(pooled.device.type, enabled=False):
            x = at_least_float32(pooled)
            for linear in self.hidden:
                x = F.gelu(self.norm(linear(x)))
            x = F.normalize(self.bottleneck(x), dim=-1)
            x = F.linear(x, F.normalize(self.directions.weight, dim=-1))
            return F.layer_norm(x, x.shape[-1:]) if self.normalize_outputs else x


class Projection(Projector):
    """A trained projector for retrieval: pooled features to unit vectors that compare across modalities.

    The cosine of two vectors is that of the projectors' outputs less their mean over training clips
    (`xkd.train.publish.mean_outputs`): what the distillation compares (Equation 10), without temperatures.
    """

    center: Tensor
    basis: Tensor | None

    def __init__(self, dim: int, size: ProjectorConfig) -> None:
        super().__init__(dim, size)
        self.register_buffer("center", torch.zeros(size.out_dim))
        self.register_buffer("basis", None, persistent=False)

    @torch.no_grad()
    def forward(self, pooled: Tensor) -> Tensor:
        """Map pooled features (B, D) to unit vectors (B, R), R <= K; see `share_basis`."""
        x = F.normalize(super().forward(pooled) - self.center, dim=-1)
        return x if self.basis is None else x @ self.basis


@torch.no_grad()
def share_basis(projections: Iterable[Projection]) -> None:
    """Let projections return coordinates in the subspace that holds all of their outputs.

    An output is a combination of the columns of `directions`, the center and, by the final norm, a constant:
    fewer dimensions than K for the sizes of Table S3. The basis is orthonormal: no cosine changes.
    """
    members = list(projections)
    columns = [torch.ones(len(members[0].center), 1)]
    for projection in members:
        columns += [F.normalize(projection.directions.weight, dim=-1), projection.center[:, None]]
    matrix = torch.cat(columns, dim=1).double()
    if matrix.shape[0] > matrix.shape[1]:
        basis, triangle = torch.linalg.qr(matrix)
        # Signs are a matter of the library; vectors made on different machines must agree.
        basis = (basis * torch.where(triangle.diagonal() < 0, -1.0, 1.0)).float()
        for projection in members:
            projection.basis = basis
