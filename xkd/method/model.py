"""XKD: students, teachers, and the objective that ties them (section 3, Equation 12)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn

from xkd.config import MODALITIES, Modality, PretrainConfig, other
from xkd.method.autoencoder import Decoder, Mask, random_mask, reconstruction_loss
from xkd.method.losses import distill, mmd, moved_center
from xkd.method.projector import Projector
from xkd.method.refine import cross_modal_attention, refine
from xkd.method.vit import Encoder, patchify

CHANNELS: dict[Modality, int] = {"video": 3, "audio": 1}


def build_encoder(config: PretrainConfig, modality: Modality) -> Encoder:
    """A freshly initialised encoder of one modality."""
    return Encoder(config.modality(modality), CHANNELS[modality], config.encoder)


class Network(nn.Module):
    """An encoder with its projector: one student or one teacher."""

    def __init__(self, config: PretrainConfig, modality: Modality) -> None:
        super().__init__()
        self.encoder = build_encoder(config, modality)
        self.projector = Projector(config.encoder.dim, config.projector)


class Networks(nn.ModuleDict):
    """The students or the teachers of both modalities."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__({m: Network(config, m) for m in MODALITIES})

    def __getitem__(self, modality: str) -> Network:
        return cast(Network, super().__getitem__(modality))


class Decoders(nn.ModuleDict):
    """The decoders of both modalities."""

    def __init__(self, config: PretrainConfig) -> None:
        dim = config.encoder.dim
        super().__init__(
            {m: Decoder(config.modality(m), CHANNELS[m], dim, config.decoder) for m in MODALITIES}
        )

    def __getitem__(self, modality: str) -> Decoder:
        return cast(Decoder, super().__getitem__(modality))


class Masked(NamedTuple):
    """A masked global view as the student's autoencoder sees it."""

    patches: Tensor
    """(B, N, P) the view's patches."""
    mask: Mask
    latent: Tensor
    """(B, 1+K, D) encoded visible tokens."""
    predicted: Tensor
    """(B, N, P) normalised patches predicted by the decoder."""


class XKD(nn.Module):
    """The whole method. `forward` is one step's objective; `update_teachers` the EMA after it."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.student = Networks(config)
        self.teacher = Networks(config)
        self.decoder = Decoders(config)
        for m in MODALITIES:
            self.register_buffer(f"center_{m}", torch.zeros(config.projector.out_dim))
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)

    def forward(
        self, views: dict[Modality, list[Tensor]], noise: dict[Modality, Tensor]
    ) -> dict[str, Tensor]:
        """The objective of one batch. Also moves the teachers' centers.

        Args:
            views: per modality the global view, then the local views; video (B, 3, T, H, W) and
                spectrograms (B, 1, F, T).
            noise: per modality (B, N) uniform numbers that choose the hidden tokens.

        Returns:
            Scalars: ``loss`` (Equation 12), and every term that goes into it or is tracked.
        """
        weights, terms = self.config.loss, {}
        student: dict[Modality, Tensor] = {}
        for m in MODALITIES:
            masked = self.reconstruct(m, views[m][0], noise[m])
            terms[f"reconstruct_{m}"] = reconstruction_loss(
                masked.predicted, masked.patches, masked.mask.hidden
            )
            student[m] = self._project_student(m, masked.latent, views[m][1:])
        teacher = self._project_teachers({m: views[m][0] for m in MODALITIES})

        terms["align_student"] = mmd(self._all_rows(student["video"]), self._all_rows(student["audio"]))
        terms["align_teacher"] = mmd(self._all_rows(teacher["video"]), self._all_rows(teacher["audio"]))
        for m in MODALITIES:
            taught, center = other(m), self._center(m)
            result = distill(
                student[taught],
                teacher[m],
                center,
                self.config.modality(taught).student_temperature,
                self.config.modality(m).teacher_temperature,
            )
            direction = f"{m}_to_{taught}"
            terms[f"kd_{direction}"], terms[f"kld_{direction}"] = result.kd, result.kld
            terms[f"teacher_entropy_{m}"] = result.entropy
            if weights.centering:
                center.copy_(moved_center(center, _mean_over_ranks(teacher[m]), weights.center_momentum))

        terms["reconstruct"] = terms["reconstruct_video"] + terms["reconstruct_audio"]
        terms["align"] = terms["align_student"] + terms["align_teacher"]
        terms["distill"] = terms["kd_video_to_audio"] + terms["kd_audio_to_video"]
        if weights.reduction == "mean":
            for name in ("reconstruct", "align", "distill"):
                terms[name] = terms[name] / 2
        terms["loss"] = (
            weights.reconstruct * terms["reconstruct"]
            + weights.align * terms["align"]
            + weights.distill * terms["distill"]
        )
        if weights.reduction == "mean":
            terms["loss"] = terms["loss"] / (weights.reconstruct + weights.align + weights.distill)
        return terms

    def reconstruct(self, modality: Modality, view: Tensor, noise: Tensor) -> Masked:
        """Mask a global view, encode what is left and predict the rest (Equations 1, 2)."""
        config = self.config.modality(modality)
        patches = patchify(view, config.patch)
        mask = random_mask(noise, config.mask_ratio)
        latent = self.student[modality].encoder.forward_visible(patches, mask.keep)
        return Masked(patches, mask, latent, self.decoder[modality](latent, mask.restore))

    @torch.no_grad()
    def update_teachers(self, momentum: float) -> None:
        """Move the teachers towards the students (Equation 13)."""
        teachers: list[Tensor] = list(self.teacher.parameters())
        students: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(teachers, students, 1 - momentum)

    def _project_student(self, modality: Modality, latent: Tensor, local_views: list[Tensor]) -> Tensor:
        """((1 + local views) B, K): the masked global view's rows, then each local view's."""
        network = self.student[modality]
        pooled = [network.encoder.pool(latent)]
        if local_views:
            pooled.append(network.encoder.pool(network.encoder(torch.cat(local_views))))
        return network.projector(torch.cat(pooled))  # type: ignore[no-any-return]

    @torch.no_grad()
    def _project_teachers(self, views: dict[Modality, Tensor]) -> dict[Modality, Tensor]:
        """(B, K) per modality: encode the whole global view, refine across modalities, project."""
        tokens, attention = {}, {}
        for m in MODALITIES:
            tokens[m], attention[m] = self.teacher[m].encoder.forward_with_cls_attention(views[m])
        projected: dict[Modality, Tensor] = {}
        for m in MODALITIES:
            relevance = cross_modal_attention(attention[m], attention[other(m)])
            refined = refine(tokens[m][:, 1:], relevance)
            projected[m] = self.teacher[m].projector(refined.mean(dim=1))
        return projected

    def _center(self, modality: Modality) -> Tensor:
        center: Tensor = getattr(self, f"center_{modality}")
        return center

    def _all_rows(self, rows: Tensor) -> Tensor:
        """The rows of every process when the alignment is taken over the global batch."""
        if not self.config.loss.align_gather or not dist.is_initialized():
            return rows
        return torch.cat(dist_functional.all_gather(rows))  # type: ignore[no-untyped-call]


def _mean_over_ranks(rows: Tensor) -> Tensor:
    mean = rows.mean(dim=0)
    if dist.is_initialized():
        dist.all_reduce(mean, op=dist.ReduceOp.SUM)
        mean /= dist.get_world_size()
    return mean
