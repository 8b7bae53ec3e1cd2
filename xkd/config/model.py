"""Settings of the model: inputs, networks, refinement and losses (Equations 1 to 12, Table S3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from xkd.config.overrides import STRICT
from xkd.config.types import Fraction, Probability

AttentionQuery = Literal["cls", "mean_query", "mean_attention"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModalityConfig:
    """One modality's inputs, masking and temperatures (Tables S3, S4)."""

    global_view: tuple[PositiveInt, ...]
    """Size of the global view: video (frames, height, width), audio (mel bins, frames)."""
    local_view: tuple[PositiveInt, ...]
    """Size of one local view, same order."""
    patch: tuple[PositiveInt, ...]
    """Size of one patch (token), same order."""
    local_views: NonNegativeInt = 1
    """Number of local views that the student sees (Table S10)."""
    mask: Literal["random", "tube"] = "random"
    """random: any tokens. tube: the same positions in all frames (VideoMAE; video only)."""
    mask_ratio: Fraction
    """Share of the global view's tokens that are hidden from the student."""
    student_temperature: PositiveFloat = 0.1
    """tau_s of Equation 10."""
    teacher_temperature: PositiveFloat
    """tau_t of Equation 10."""
    teacher_temperature_start: PositiveFloat | None = None
    """First value of a schedule that reaches teacher_temperature after optim.temperature_epochs (Table S8);
    None: no schedule."""

    @model_validator(mode="after")
    def _check_patches(self) -> ModalityConfig:
        for name, size in (("global_view", self.global_view), ("local_view", self.local_view)):
            if len(size) != len(self.patch) or any(s % p for s, p in zip(size, self.patch, strict=False)):
                raise ValueError(f"{name} {size} must be a multiple of patch {self.patch}")
        if self.mask == "tube" and len(self.patch) == 2:
            raise ValueError("mask tube is only for video: it hides the same positions in all frames")
        return self

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens of the global view along each axis."""
        return tuple(s // p for s, p in zip(self.global_view, self.patch, strict=True))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TransformerConfig:
    """Size of an encoder or a decoder (Table S3)."""

    dim: PositiveInt
    """Width of the tokens."""
    depth: PositiveInt
    """Number of transformer blocks."""
    heads: PositiveInt
    """Number of attention heads; divides `dim`."""

    @model_validator(mode="after")
    def _check_heads(self) -> TransformerConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RefineConfig:
    """Refinement of each teacher's features by the other modality (Equations 3-6, Table S14)."""

    relevance: Literal["mean", "softmax", "none"] = "mean"
    """mean: Equation 4. softmax: Equation S3. none: no refinement."""
    query: AttentionQuery = "cls"
    """Query that attends to the patches: the class token's (Equation 3), the mean of the patches' queries
    (B.8), or the mean attention of all tokens (the authors' code without the class token)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProjectorConfig:
    """Shape of the projector heads (Table S3)."""

    layers: Annotated[int, Field(ge=2)] = 3
    """Linear layers up to the bottleneck (Table S11)."""
    norm: Literal["none", "last", "all"] = "all"
    """Normalized layers (Figure S5): none, the outputs only, or the hidden layers as well."""
    hidden_dim: PositiveInt = 2048
    """Width of the hidden layers."""
    bottleneck_dim: PositiveInt = 256
    """Width of the layer before the outputs."""
    out_dim: PositiveInt = 8192
    """K: the number of outputs over which the distillation's distributions range (Table S12)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossConfig:
    """Weights of Equation 12, and the teachers' centering."""

    align: NonNegativeFloat = 1.0
    """lambda_da: weight of the MMD domain alignment."""
    distill: NonNegativeFloat = 1.0
    """lambda_kd: weight of the cross-modal distillation."""
    reconstruct: NonNegativeFloat = 5.0
    """lambda_ae: weight of the masked reconstruction."""
    reduction: Literal["sum", "mean"] = "sum"
    """sum: Equations 2, 7, 11 and 12 as printed. mean: the authors' code, which halves each pair of
    terms and divides the total by the sum of the weights (by default, gradients 14 times smaller)."""
    align_pairs: Literal["same", "across", "both"] = "same"
    """Aligned outputs (Table S13). same: student with student and teacher with teacher (L_da);
    across: each teacher with the other modality's student (Equation S1); both: their sum (Equation S2)."""
    align_gather: bool = False
    """Compute the MMD over the rows of all processes instead of per process (the authors' code)."""
    centering: bool = True
    """Subtract the running center from the teachers' outputs (B.5; without it the run collapses)."""
    center_momentum: Probability = 0.9
    """Share of the previous center that each step keeps."""

    @model_validator(mode="after")
    def _check_weights(self) -> LossConfig:
        if self.align == self.distill == self.reconstruct == 0:
            raise ValueError("align, distill and reconstruct must not all be zero")
        return self
