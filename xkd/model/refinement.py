"""Feature refinement of the teachers by cross-modal attention (Equations 3 to 6, section B.8)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor


def cross_modal_attention(
    own: Tensor, across: Tensor, relevance: Literal["mean", "softmax"] = "mean"
) -> Tensor:
    """Return the relevance of each token given the other modality (Equation 4; softmax: Equation S3).

    The outer product of both attentions, averaged over the other modality's tokens, equals `own` times one
    number per head, so the N x M map is never formed. Equation 4 divides it by the mean of `own`, Equation S3
    takes its softmax.

    Args:
        own: (B, heads, N) attention to this modality's patches, the shape of the result.
        across: (B, heads, M) attention to the other modality's patches.
    """
    pooled = own * across.mean(dim=-1, keepdim=True)
    return pooled.softmax(dim=-1) if relevance == "softmax" else pooled / own.mean(dim=-1, keepdim=True)


def refine(tokens: Tensor, relevance: Tensor) -> Tensor:
    """Weight the teacher's tokens by their relevance, keeping the norm of their mean (Equations 5, 6).

    Args:
        tokens: (B, N, D) patch tokens after the final norm, the shape of the result.
        relevance: (B, heads, N) from `cross_modal_attention`.
    """
    weighted = tokens * relevance.mean(dim=1).unsqueeze(-1)
    scale: Tensor = tokens.mean(dim=1).norm(dim=-1) / weighted.mean(dim=1).norm(dim=-1)
    return weighted * scale[:, None, None]
